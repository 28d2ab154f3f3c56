"""What a request holds while it is processed is released after each kind of request: bytes of bodies, and timers."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from auth.principal import ANONYMOUS_OPERATOR, Access
from errors import Unauthorized
from tests.raw import head
from tests.web.serving import Routes, Server, run, serving, until
from web import request_body
from web.base import BaseHandler

LIMIT, BUDGET = 10_000, 50_000


class Handler(BaseHandler):
    """Parses its body after POST, and ignores it otherwise."""

    access = Access.AUTHENTICATED
    body_limit = None

    def get(self) -> None:
        self.write_json("done")

    def post(self) -> None:
        self.write_json(len(self.json_body()))

    def put(self) -> None:
        raise RuntimeError("broken")

    delete = get


class RejectingHandler(Handler):
    """Rejects every request in ``prepare``."""

    async def prepare(self) -> None:
        await super().prepare()
        self.reject(Unauthorized("Sign in."))


class StreamHandler(BaseHandler):
    """Streams until the test ends or aborts the response."""

    access = Access.AUTHENTICATED
    body_limit = None
    events: asyncio.Queue[str]

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.events.put_nowait("finish")

    async def get(self) -> None:
        self.start_stream("text/plain")
        await self.flush()
        if await self.events.get() == "abort":
            self.abort_stream("client too slow")
        else:
            await self.finish_stream()

    post = get


ROUTES: Routes = [("/a", Handler), ("/rejecting", RejectingHandler), ("/stream", StreamHandler)]
SETTINGS: dict[str, Any] = {
    "max_body_bytes": LIMIT,
    "max_total_body_bytes": BUDGET,
    "body_timeout": 0.2,
    "client_write_timeout": 0.2,
}


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[asyncio.TimerHandle]]:
    """The timers that the code under test has started, Tornado's own excluded."""
    started: list[asyncio.TimerHandle] = []
    original = asyncio.BaseEventLoop.call_later

    def call_later(loop: Any, delay: float, callback: Callable[..., object], *rest: Any, **more: Any) -> Any:
        timer = original(loop, delay, callback, *rest, **more)
        if getattr(callback, "__name__", "") in ("_check_progress", "close"):
            started.append(timer)
        return timer

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_later", call_later)
    yield started


def pending(timers: list[asyncio.TimerHandle]) -> list[asyncio.TimerHandle]:
    now = asyncio.get_running_loop().time()
    return [timer for timer in timers if not timer.cancelled() and timer.when() > now]


def with_length(size: int, path: str = "/a", *more: str, method: str = "POST") -> bytes:
    return head(path, f"Content-Length: {size}", *more, method=method)


def chunked(size: int, path: str = "/a", *more: str, method: str = "POST") -> bytes:
    chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    return head(path, "Transfer-Encoding: chunked", *more, method=method) + chunk * (size // 1000)


BODY = b"x" * 5_000
REQUESTS: dict[str, tuple[bytes, int]] = {
    "processed": (with_length(5_000) + BODY, 200),
    "processed, chunked": (chunked(5_000) + b"0\r\n\r\n", 200),
    "wrong content type": (with_length(5_000).replace(b"application/json", b"text/plain") + BODY, 415),
    "unread by GET": (with_length(5_000, method="GET") + BODY, 200),
    "unread by DELETE": (with_length(5_000, method="DELETE") + BODY, 200),
    "method not implemented": (with_length(5_000, method="PATCH") + BODY, 405),
    "method unknown": (with_length(5_000, method="BREW") + BODY, 405),
    "path unknown": (with_length(5_000, "/nowhere") + BODY, 404),
    "rejected": (with_length(5_000, "/rejecting") + BODY, 401),
    "rejected, chunked": (chunked(5_000, "/rejecting") + b"0\r\n\r\n", 401),
    "rejected, expecting 100": (with_length(5_000, "/rejecting", "Expect: 100-continue"), 401),
    "too large": (with_length(LIMIT + 1) + b"x" * (LIMIT + 1), 413),
    "too large, chunked": (chunked(2 * LIMIT) + b"0\r\n\r\n", 413),
    "far too large": (with_length(2**40), 413),
    "length of 5,000 digits": (head("/a", "Content-Length: " + "9" * 5_000), 413),
    "never arrives": (with_length(5_000), 408),
    "stops": (with_length(5_000) + b"x" * 4_000, 408),
    "stops, chunked": (chunked(5_000), 408),
    "rejected and stops": (with_length(5_000, "/rejecting") + b"x" * 4_000, 408),
    "length is no number": (head("/a", "Content-Length: abc") + BODY, 400),
    "rejected, length is no number": (head("/rejecting", "Content-Length: abc") + BODY, 400),
    "malformed chunk": (chunked(5_000) + b"xyz\r\n", 400),
    "chunks in HTTP/1.0": (head("/a", "Transfer-Encoding: chunked", version="1.0") + BODY, 400),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_releases_the_bytes_and_timers_of_its_body(kind: str, timers: list[asyncio.TimerHandle]) -> None:
    request, status = REQUESTS[kind]

    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            await connection.send(request)
            assert (await connection.response()).status == status
            assert server.reserved == 0
            assert not pending(timers)

    run(test)


@pytest.mark.expects_log("A request failed")
def test_a_failing_handler_releases_the_bytes_of_its_body(timers: list[asyncio.TimerHandle]) -> None:
    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            await connection.send(with_length(5_000, method="PUT") + BODY)
            assert (await connection.response()).status == 500
            assert server.reserved == 0
            assert not pending(timers)

    run(test)


@pytest.mark.parametrize("sent", [with_length(5_000) + b"x" * 4_000, chunked(5_000)], ids=["length", "chunked"])
def test_a_client_that_disconnects_releases_the_bytes_of_its_body(
    sent: bytes, timers: list[asyncio.TimerHandle]
) -> None:
    async def test() -> None:
        async with serving(ROUTES, **SETTINGS | {"body_timeout": 100}) as server:
            async with server.connect() as connection:
                await connection.send(sent)
                await until(lambda: server.reserved == sent.partition(b"\r\n\r\n")[2].count(b"x"))
            await until(lambda: not server.reserved)
            assert not pending(timers)

    run(test)


def test_bodies_beyond_the_budget_are_rejected_with_503_and_released() -> None:
    async def test() -> None:
        async with (
            serving(ROUTES, **SETTINGS | {"max_total_body_bytes": 20_000, "body_timeout": 100}) as server,
            server.connect() as first,
            server.connect() as second,
        ):
            await first.send(with_length(8_000) + b"x" * 7_999)
            await until(lambda: server.reserved == 7_999)
            for body in (with_length(5_000) + BODY, chunked(5_000) + b"0\r\n\r\n"):
                await second.send(body)
                response = await second.response()
                assert (response.status, response.headers.get("connection")) == (503, None)
            await first.send(b"x")
            assert (await first.response()).status == 200
            assert server.reserved == 0

    run(test)


@pytest.mark.parametrize("end", ["finish", "abort", "disconnect"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_stream_does_not_hold_the_bytes_of_a_body_that_it_does_not_read(
    end: str, method: str, timers: list[asyncio.TimerHandle]
) -> None:
    async def test() -> None:
        StreamHandler.events = asyncio.Queue()
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            await connection.send(with_length(5_000, "/stream", method=method) + BODY)
            assert (await connection.response()).status == 200
            if method == "GET":
                assert not server.reserved
            if end == "disconnect":
                connection.reset()
            else:
                await StreamHandler.events.put(end)
                await connection.rest() if end == "abort" else await connection.reader.readuntil(b"0\r\n\r\n")
            await until(lambda: not server.reserved)
            assert not pending(timers)

    run(test)


# Expect: 100-continue (RFC 9110, section 10.1.1).


def test_a_chunked_body_that_exceeds_the_limit_after_100_continue_is_rejected_with_413() -> None:
    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            await connection.send(head("/a", "Transfer-Encoding: chunked", "Expect: 100-continue"))
            assert (await connection.response()).status == 100
            await connection.send(chunked(2 * LIMIT).partition(b"\r\n\r\n")[2] + b"0\r\n\r\n")
            response = await connection.response()
            assert (response.status, b"larger than" in response.body) == (413, True)
            await connection.send(head("/a", method="GET"))
            assert (await connection.response()).status == 200
            assert server.reserved == 0

    run(test)


def test_a_body_beyond_the_budget_after_100_continue_is_rejected_with_503() -> None:
    async def test() -> None:
        async with serving(ROUTES, **SETTINGS | {"max_total_body_bytes": 1_000}) as server:
            async with server.connect() as connection:
                await connection.send(with_length(5_000, "/a", "Expect: 100-continue"))
                assert (await connection.response()).status == 100
                await connection.send(BODY)
                assert (await connection.response()).status == 503
            assert server.reserved == 0

    run(test)


# The body's timeout.


def test_the_time_that_authentication_takes_does_not_count_towards_the_timeout_of_the_body() -> None:
    class SlowIdentity:
        def authenticate_now(self, token: str | None, cookie: str | None) -> None:
            return None

        async def authenticate(self, token: str) -> Any:
            await asyncio.sleep(0.5)
            return ANONYMOUS_OPERATOR

    async def test() -> None:
        async with (
            serving([("/a", Handler)], identity=SlowIdentity(), **SETTINGS) as server,  # type: ignore[arg-type]
            server.connect() as connection,
        ):
            await connection.send(with_length(5_000, "/a", "Authorization: Bearer x") + BODY)
            assert (await connection.response()).status == 200

    run(test)


def test_a_rejected_body_beyond_the_drop_limit_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "DROP_LIMIT", 100_000)

    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            await connection.send(head("/a", "Transfer-Encoding: chunked"))
            with pytest.raises(ConnectionError):
                while True:
                    await connection.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            assert server.reserved == 0

    run(test)


# Responses that the client does not read.


class LargeHandler(BaseHandler):
    access = Access.AUTHENTICATED

    def get(self) -> None:
        self.finish(b"x" * 8_000_000)


class LastPieceHandler(BaseHandler):
    """Ends a stream while its last piece is still in Tornado's buffer."""

    access = Access.AUTHENTICATED
    ended = False

    async def get(self) -> None:
        self.start_stream("text/plain")
        await self.flush()
        self.write(b"x" * 8_000_000)
        self.flush()
        await self.finish_stream()
        type(self).ended = True


def narrow(server: Server) -> Any:
    return server.connect(limit=4_096)


def test_the_timer_of_an_unread_response_ends_with_the_connection(timers: list[asyncio.TimerHandle]) -> None:
    async def test() -> None:
        async with serving([("/large", LargeHandler)], client_write_timeout=1_000) as server:
            async with narrow(server) as connection:
                await connection.send(head("/large", method="GET"))
                await connection.reader.readexactly(10)
                assert len(pending(timers)) == 1
            await until(lambda: not pending(timers))

    run(test)


def test_the_timer_of_a_slowly_read_response_ends_with_the_response(timers: list[asyncio.TimerHandle]) -> None:
    async def test() -> None:
        async with (
            serving([("/large", LargeHandler)], client_write_timeout=1_000) as server,
            narrow(server) as connection,
        ):
            for _ in range(2):
                await connection.send(head("/large", method="GET"))
                assert len((await connection.response()).body) == 8_000_000
                assert not pending(timers)

    run(test)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("disconnects", [True, False])
def test_a_stream_whose_end_the_client_does_not_read_is_closed_after_the_write_timeout(
    version: str, disconnects: bool, timers: list[asyncio.TimerHandle]
) -> None:
    async def test() -> None:
        LastPieceHandler.ended = False
        timeout = 1_000 if disconnects else 0.3
        async with (
            serving([("/last", LastPieceHandler)], client_write_timeout=timeout) as server,
            narrow(server) as connection,
        ):
            await connection.send(head("/last", "Connection: keep-alive", method="GET", version=version))
            await connection.reader.readexactly(10)
            await until(lambda: bool(timers))
            if disconnects:
                connection.reset()
            await until(lambda: LastPieceHandler.ended)
            await until(lambda: not pending(timers))
            if not disconnects:
                assert len(await connection.rest()) < 8_000_000

    run(test)
