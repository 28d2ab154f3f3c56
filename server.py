"""chatterd: settings in, parts wired, listening, ending. Everything else has a room of its own."""

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import tornado.options
import uvloop
from tornado.netutil import bind_sockets

import logging_setup
import settings as configuration
from auth import identity_provider, origins
from db.pool import Database
from embedded.model import EmbeddedModel
from embedded.postgres import EmbeddedPostgres
from handlers import create_application
from relay.factory import create_relay
from relay.metrics import Metrics
from relay.ollama.client import OllamaClient
from settings import Settings, ollama_url
from web.http_server import ChatterdServer
from web.services import create_services
from web.tls import KeyPair

log = logging.getLogger("chatterd")

BACKLOG = 4_096
"""Connections that may wait to be taken; one more has to try again, after a second."""


def main() -> None:
    """Run the server until SIGTERM or Ctrl-C. Exits with 1 and a sentence if it cannot start."""
    try:
        settings = configuration.read(sys.argv[1:])
        logging_setup.set_up(settings.log_format)
        identity_provider.authenticate(settings)
        _allow_many_sockets()
        asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve(settings))
    except tornado.options.Error as error:
        sys.exit(f"chatterd: {error}. `server.py --help` lists the settings.")
    except OSError as error:
        sys.exit(f"chatterd cannot start: {error}")


async def serve(settings: Settings) -> None:
    """Start all parts, serve, and end them in reverse order.

    :raises OSError: the address is taken, or an embedded part cannot start.
    :raises tornado.options.Error: a file that a setting names is wrong.
    """
    asyncio.get_running_loop().set_exception_handler(logging_setup.log_loop_error)
    stopping = _stop_signal()
    reloads = _reload_signal(stopping)
    _check_address(settings)
    key_pair = KeyPair(settings.certfile, settings.keyfile) if settings.certfile or settings.keyfile else None
    if key_pair:
        key_pair.load()  # fail before anything is started
    async with AsyncExitStack() as parts:
        known = await identity_provider.open_identity_provider(parts, settings)
        pages = origins.parse_origins(settings.cors_origins)
        metrics = Metrics()
        database = Database(
            settings.database_url or await _start_postgres(parts, settings),
            settings.pool_size,
            settings.acquire_timeout,
            settings.session_database_url,
            on_acquired=metrics.database_wait.observe,
        )
        parts.push_async_callback(database.close)
        await database.open()
        ollama = OllamaClient(await _find_model(parts, settings), settings.max_replies, settings.connect_timeout)
        parts.callback(ollama.close)
        relay = await create_relay(parts, database, ollama, settings, metrics)
        services = create_services(settings, database, ollama, relay, metrics, known, pages)
        server = ChatterdServer(create_application(services), settings=settings, key_pair=key_pair)
        reloads.append(server.reload_certificate)
        if known:
            reloads.append(known.reload)
        # Not before all is ready: a balancer may send a refused prompt elsewhere, but not one that waits here in vain.
        sockets = bind_sockets(settings.port, settings.address, backlog=BACKLOG)
        server.add_sockets(sockets)
        host, port = sockets[0].getsockname()[:2]
        _spare_the_collector()
        scheme = "https" if key_pair else "http"
        log.info("chatterd is ready: open %s://%s:%d/ in a browser. Ctrl-C ends it.", scheme, host, port)
        await stopping.wait()
        await relay.replies.drain(settings.drain_timeout)
        await relay.status.end()
        server.stop()
        await server.close_all_connections()
    log.info("chatterd has ended.")


def _allow_many_sockets() -> None:
    """Raise the limit of open files to what the system lets this process have: a streaming reply needs two sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _spare_the_collector() -> None:
    """Have Python's cyclic garbage collector look less often, and not at what stays for good anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _check_address(settings: Settings) -> None:
    """Fail at once if the address is taken, before anything is started."""
    for free in bind_sockets(settings.port, settings.address):
        free.close()


def _stop_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def _reload_signal(stopping: asyncio.Event) -> list[Callable[[], None]]:
    """Have SIGHUP reload what is in the list that this returns; it ends a server whose terminal was closed, though."""
    reloads: list[Callable[[], None]] = []
    on_terminal = sys.stderr.isatty()

    def reload() -> None:
        if on_terminal and not sys.stderr.isatty():
            stopping.set()
            return
        log.info("SIGHUP: reading again what can change while chatterd runs.")
        for one in reloads:
            one()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    return reloads


async def _start_postgres(parts: AsyncExitStack, settings: Settings) -> str:
    if not EmbeddedPostgres.installed():
        raise OSError("no --database-url is given, and the embedded PostgreSQL is not installed (`make run` does)")
    folder = Path(settings.data_dir, "postgres")
    log.info("No --database-url: starting the embedded PostgreSQL, data in %s", folder)
    postgres = EmbeddedPostgres(folder)
    parts.callback(postgres.stop)
    return await asyncio.to_thread(postgres.start)


async def _find_model(parts: AsyncExitStack, settings: Settings) -> str:
    """Say where the model is: Ollama, or if none answers there, the embedded one."""
    url = ollama_url(settings.ollama_host)
    if await OllamaClient.is_reachable(url):
        log.info("Using the Ollama at %s", url)
        return url
    if not settings.embedded_model:
        log.warning("No Ollama answers at %s; replies will say so until one does.", url)
        return url
    if not EmbeddedModel.installed():
        log.warning("No Ollama answers at %s, and the embedded model is not installed (`make run` does).", url)
        return url
    log.info("No Ollama answers at %s: starting the embedded model SmolLM2-135M, a toy to try chatterd with.", url)
    log.info("To use your own models: start Ollama, or set OLLAMA_HOST, and start chatterd again.")
    model = EmbeddedModel()
    parts.push_async_callback(model.stop)
    return await model.start()


if __name__ == "__main__":
    main()
