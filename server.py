"""The command ``server.py``: loads the settings, creates the components, serves until SIGTERM or SIGINT, and drains."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends without a traceback

import asyncio
import gc
import logging
import resource
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import tornado.options
import uvloop

import listening
import logging_setup
from auth import identity_provider
from auth.origins import parse_origins
from command_line import load_settings
from db.connection.availability import Availability
from db.pool import Database
from embedded.model import EmbeddedModel
from embedded.postgres import EmbeddedPostgres
from errors import StartupError
from handlers import create_application
from relay.factory import create_relay
from relay.metrics import Metrics
from relay.ollama.client import OllamaClient
from relay.ollama.upstreams import Upstreams
from settings import Settings, ollama_url
from stop_signals import StopSignals
from web.connections.http_server import ChatterdServer
from web.connections.tls import KeyPair
from web.services import create_services

log = logging.getLogger("chatterd")

MACOS_OPEN_MAX = 10_240
"""Largest soft limit of open files that macOS accepts in any case (its setrlimit(2), ``OPEN_MAX``)."""


def main() -> None:
    """Run the server until SIGTERM or SIGINT. Exit with status 1 and a message if it cannot start."""
    try:
        settings = load_settings(sys.argv[1:])
        logging_setup.configure(settings.log_format)
        identity_provider.validate_settings(settings)
        _raise_open_file_limit()
        sys.exit(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(run(settings)))
    except tornado.options.Error as error:
        sys.exit(f"chatterd: {error}. `server.py --help` lists the settings.")
    except (StartupError, OSError) as error:
        sys.exit(f"chatterd cannot start: {error}")


async def run(settings: Settings) -> int:
    """Serve until a signal, and return the exit status: 0 unless a second signal ended the server at once.

    :raises OSError, StartupError, tornado.options.Error: as :func:`serve`.
    """
    signals = StopSignals(cast("asyncio.Task[int]", asyncio.current_task()))
    try:
        await serve(settings, signals)
    except asyncio.CancelledError:
        if not signals.cancelled:
            raise
    log.info("chatterd has stopped.")
    return signals.exit_status


async def serve(settings: Settings, signals: StopSignals) -> None:
    """Start all components, serve, and stop the components in reverse order.

    :raises OSError: an embedded component cannot start.
    :raises StartupError: a setting can never work, or its address cannot be used.
    :raises tornado.options.Error: a file named by a setting is invalid.
    """
    asyncio.get_running_loop().set_exception_handler(logging_setup.log_loop_error)
    reloads = _handle_reload_signal(signals.received)
    listening.check(settings.address, settings.port)
    ollama_url(settings.ollama_host)  # fail before anything is started
    key_pair = KeyPair(settings.certfile, settings.keyfile) if settings.certfile or settings.keyfile else None
    if key_pair:
        key_pair.load()  # fail before anything is started
    async with AsyncExitStack() as stack:
        identity = await identity_provider.open_identity_provider(stack, settings)
        origins = parse_origins(settings.cors_origins)
        metrics = Metrics()
        database = Database(
            settings.database_url or await _start_postgres(stack, settings),
            settings.pool_size,
            settings.acquire_timeout,
            settings.session_database_url,
            on_acquired=metrics.database_wait.observe,
            on_startup_error=signals.received.set,
        )
        stack.push_async_callback(database.close)
        await database.open()
        upstreams = await _find_ollama(stack, settings)
        relay = await create_relay(stack, database, upstreams, settings, metrics)
        services = create_services(settings, database, upstreams, relay, metrics, identity, origins)
        server = ChatterdServer(create_application(services), settings=settings, key_pair=key_pair)
        reloads.append(server.reload_certificate)
        if identity:
            reloads.append(identity.reload)
        # Bind only now: a balancer retries a refused connection on another server, but not one that was accepted here.
        sockets = listening.listen(settings.address, settings.port)
        server.add_sockets(sockets)
        _tune_garbage_collection()
        signals.started()
        url = listening.url("https" if key_pair else "http", sockets[0]) + settings.base_path
        announcing = asyncio.create_task(_announce(database.availability, f"{url}/"))
        await signals.received.wait()
        announcing.cancel()
        await relay.replies.drain(settings.drain_timeout)
        await relay.status.end()
        server.stop()
        await server.close_all_connections()
    if database.startup_error:
        raise database.startup_error


async def _announce(availability: Availability, url: str) -> None:
    """Log the address, and that the server is ready as soon as it is."""
    if reason := availability.reason:
        log.info("chatterd listens and waits for the database (%s): open %s in a browser.", reason.value, url)
        await availability.wait()
    log.info("chatterd is ready: open %s in a browser. Ctrl-C stops it.", url)


def _raise_open_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit: a reply needs two sockets (viewer and Ollama)."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard_limit, MACOS_OPEN_MAX):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard_limit))
            return
        except (ValueError, OSError):  # macOS does not accept its own hard limit, which may be infinite
            continue


def _tune_garbage_collection() -> None:
    """Run the cyclic garbage collector less often, and never on the objects that exist now (see ``gc.freeze``)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _handle_reload_signal(stopping: asyncio.Event) -> list[Callable[[], None]]:
    """Call the functions in the returned list at SIGHUP; a server whose terminal was closed stops instead."""
    reloads: list[Callable[[], None]] = []
    on_terminal = sys.stderr.isatty()

    def reload() -> None:
        if on_terminal and not sys.stderr.isatty():
            stopping.set()
            return
        log.info("SIGHUP: reloading certificate, tokens and keys.")
        for function in reloads:
            function()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    return reloads


async def _start_postgres(stack: AsyncExitStack, settings: Settings) -> str:
    """Start the embedded PostgreSQL and return its URL.

    :raises StartupError: it cannot be started.
    """
    directory = Path(settings.data_dir, "postgres")
    log.info("--database-url is not set: starting the embedded PostgreSQL with its data in %s", directory)
    postgres = EmbeddedPostgres(directory)
    stack.push_async_callback(asyncio.to_thread, postgres.stop)
    url = await asyncio.to_thread(postgres.start)
    postgres.supervise()
    return url


async def _find_ollama(stack: AsyncExitStack, settings: Settings) -> Upstreams:
    """Look for Ollama. Where no address is set, let the embedded model stand in until Ollama answers.

    :raises StartupError: ``--ollama-host`` can never work.
    """
    client = OllamaClient(ollama_url(settings.ollama_host), settings.max_replies, settings.connect_timeout)
    stack.callback(client.close)
    may_stand_in = settings.embedded_model and not settings.ollama_host.strip()
    installed = may_stand_in and EmbeddedModel.installed()
    upstreams = Upstreams(client, EmbeddedModel(settings.log_format) if installed else None)
    stack.push_async_callback(upstreams.stop)
    state = await upstreams.start()
    if may_stand_in and not installed and not state.ok:
        log.warning("The embedded model cannot stand in, since it is not installed (`make run` installs it).")
    return upstreams


if __name__ == "__main__":
    main()
