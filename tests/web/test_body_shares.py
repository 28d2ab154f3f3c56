"""What request bodies take of memory: nothing for a sender that is not let in, and a share for each one that is."""

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from typing import Any, ClassVar, cast

import pytest

from auth.identity_provider import IdentityProvider
from auth.principal import Access, Principal
from errors import Unauthorized
from handlers import ROUTES as ROUTES_OF_THE_PROGRAM
from relay.sender_shares import SenderShares
from tests.raw import head
from tests.web.serving import Connection, Routes, Server, run, serving, until
from web import request_body
from web.base import BaseHandler

LIMIT, BUDGET = 60_000, 160_000
OF_STRANGERS, OF_SENDERS = 10_000, 150_000


class Handler(BaseHandler):
    access = Access.AUTHENTICATED
    body_limit: ClassVar[int | None] = None

    def get(self) -> None:
        self.write_json("done")

    def post(self) -> None:
        self.write_json(len(self.json_body()))


class PublicHandler(Handler):
    access = Access.PUBLIC
    body_limit = 1_000


class PublicPage(BaseHandler):
    access = Access.PUBLIC

    def get(self) -> None:
        self.write_json("done")


class KeepingHandler(BaseHandler):
    """Hands its body's charge over."""

    access = Access.AUTHENTICATED
    body_limit = None
    kept: Any = None

    def post(self) -> None:
        type(self).kept = self.take_charge()
        self.write_json(len(self.json_body()))


class WaitingHandler(BaseHandler):
    """Holds its body until the test says that it ends."""

    access = Access.AUTHENTICATED
    body_limit = None
    ended: asyncio.Event

    async def post(self) -> None:
        body = self.json_body()
        await self.ended.wait()
        self.write_json(len(body))


ROUTES: Routes = [
    ("/a", Handler),
    ("/public", PublicHandler),
    ("/page", PublicPage),
    ("/kept", KeepingHandler),
    ("/waiting", WaitingHandler),
]


class Identity:
    """Knows all tokens but one; each is its tenant."""

    def authenticate_now(self, token: str | None, cookie: str | None) -> Principal | None:
        return Principal(token) if token and token != "unknown" else None

    async def authenticate(self, token: str) -> Principal:
        raise Unauthorized("Sign in.")


def tokens() -> IdentityProvider:
    return Identity()  # type: ignore[return-value]


SETTINGS: dict[str, Any] = {"max_body_bytes": LIMIT, "max_total_body_bytes": BUDGET, "body_timeout": 100}


def begin(path: str, token: str = "", *more: str, method: str = "POST") -> bytes:
    fields = [f"Authorization: Bearer {token}"] if token else []
    return head(path, "Transfer-Encoding: chunked", *fields, *more, method=method)


def chunk(size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b"x" * size)


LAST = b"0\r\n\r\n"


async def charge(server: Server, connection: Connection, request: bytes, size: int) -> None:
    """Send a request of which ``size`` bytes stay in memory."""
    before = server.reserved
    await connection.send(request + chunk(size))
    await until(lambda: server.reserved == before + size)


# Without a sender.


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (begin("/a"), 401),
        (begin("/a", "unknown"), 401),
        (begin("/a", "alice", "Origin: https://evil.example"), 403),
        (begin("/a", "alice").replace(b"application/json", b"text/plain"), 415),
        (begin("/a", "alice", method="PUT"), 405),
        (begin("/a", "alice", method="DELETE"), 405),
        (begin("/page"), 405),
        (begin("/nowhere"), 404),
        (begin("/public").replace(b"application/json", b"text/plain"), 415),
        (begin("/a", "alice", method="GET"), 200),
    ],
    ids=lambda value: str(value),
)
def test_nothing_is_kept_of_a_body_that_no_handler_will_read(
    request_bytes: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: list[int] = []
    monkeypatch.setattr(SenderShares, "reserve", lambda _budget, _sender, size: charged.append(size))

    async def test() -> None:
        async with serving(ROUTES, identity=tokens(), **SETTINGS) as server, server.connect() as connection:
            await connection.send(request_bytes + chunk(15_000) + LAST)
            assert (await connection.response()).status == status
            assert charged == []

    run(test)


# The limits of routes.


@pytest.mark.parametrize(
    ("path", "method", "limit"),
    [
        ("/public", "POST", 1_000),
        ("/a", "POST", LIMIT),
        ("/a", "GET", request_body.IGNORED_BODY_LIMIT),
        ("/page", "GET", request_body.IGNORED_BODY_LIMIT),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_each_route_has_its_limit_of_body_bytes(path: str, method: str, limit: int, chunked: bool) -> None:
    async def test() -> None:
        async with (
            serving(ROUTES, identity=tokens(), **SETTINGS) as server,
            server.connect() as connection,
        ):
            for size, status in ((limit, 200), (limit + 1, 413), (limit, 200)):
                if chunked:
                    await connection.send(begin(path, "alice", method=method) + chunk(size) + LAST)
                else:
                    fields = (f"Content-Length: {size}", "Authorization: Bearer alice")
                    await connection.send(head(path, *fields, method=method) + b"x" * size)
                response = await connection.response()
                assert response.status == status
                assert status == 200 or str(limit) in response.body.decode()

    run(test)


def test_every_route_declares_a_limit_if_it_takes_a_body() -> None:
    taking = {
        rule.target
        for rule in ROUTES_OF_THE_PROGRAM
        if {"POST", "PUT", "PATCH"} & set(allowed_methods(cast(type[BaseHandler], rule.target)))
    }
    declared = {rule.target for rule in ROUTES_OF_THE_PROGRAM if cast(type[BaseHandler], rule.target).body_limit != 0}
    assert taking == declared


def allowed_methods(handler: type[BaseHandler]) -> list[str]:
    return BaseHandler.allowed_methods(handler.__new__(handler))


# Shares.


@pytest.mark.parametrize("path", ["/public", "/a"])
def test_one_address_takes_half_of_the_bytes_at_most(path: str) -> None:
    """Of the bytes for strangers, and without authentication of all."""
    part = 900 if path == "/public" else 14_000

    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, AsyncExitStack() as connections:
            for _ in range(5):
                await charge(server, await connections.enter_async_context(server.connect()), begin(path), part)
            late = await connections.enter_async_context(server.connect())
            await late.send(begin(path) + chunk(part) + LAST)
            response = await late.response()
            assert (response.status, response.headers["retry-after"]) == (503, "2")
            other = await connections.enter_async_context(server.connect(address="127.0.0.2"))
            await other.send(begin(path) + chunk(part) + LAST)
            assert (await other.response()).status == 200

    run(test)


def test_one_tenant_takes_half_of_the_bytes_at_most_from_any_address() -> None:
    async def test() -> None:
        async with serving(ROUTES, identity=tokens(), **SETTINGS) as server, AsyncExitStack() as connections:
            for number in range(5):
                address = f"127.0.0.{number + 1}"
                connection = await connections.enter_async_context(server.connect(address=address))
                await charge(server, connection, begin("/a", "alice"), 14_000)
            late = await connections.enter_async_context(server.connect())
            for token, status in (("alice", 503), ("bob", 200)):
                await late.send(begin("/a", token) + chunk(14_000) + LAST)
                assert (await late.response()).status == status

    run(test)


def test_strangers_from_any_number_of_addresses_take_nothing_of_what_tenants_have() -> None:
    async def test() -> None:
        async with serving(ROUTES, identity=tokens(), **SETTINGS) as server, AsyncExitStack() as connections:
            for number in range(2, 30):
                connection = await connections.enter_async_context(server.connect(address=f"127.0.0.{number}"))
                await connection.send(begin("/public") + chunk(900))
            tenant = await connections.enter_async_context(server.connect())
            await tenant.send(begin("/a", "alice") + chunk(LIMIT) + LAST)
            assert (await tenant.response()).body == str(LIMIT).encode()
            assert server.reserved < OF_STRANGERS

    run(test)


# Charges.


def test_a_charge_that_was_handed_over_is_released_once_by_its_keeper() -> None:
    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            await connection.send(begin("/kept") + chunk(5_000) + LAST)
            assert (await connection.response()).body == b"5000"
            assert (server.reserved, KeepingHandler.kept.size) == (5_000, 5_000)
            for _ in range(2):
                KeepingHandler.kept.release()
                assert server.reserved == 0

    run(test)


def test_the_charge_of_a_request_without_body_is_empty() -> None:
    async def test() -> None:
        async with serving(ROUTES, **SETTINGS) as server, server.connect() as connection:
            await connection.send(head("/kept", "Content-Length: 0"))
            assert (await connection.response()).body == b"0"
            KeepingHandler.kept.release()
            assert server.reserved == 0

    run(test)


def test_a_body_that_a_handler_has_taken_is_charged_until_the_handler_ends_even_if_the_client_leaves() -> None:
    async def test() -> None:
        WaitingHandler.ended = asyncio.Event()
        async with serving(ROUTES, **SETTINGS) as server:
            async with server.connect() as connection:
                await connection.send(begin("/waiting") + chunk(5_000) + LAST)
                await until(lambda: server.reserved == 5_000)
            await until(lambda: not server.open_connections)
            assert server.reserved == 5_000
            WaitingHandler.ended.set()
            await until(lambda: not server.reserved)

    run(test)


PATHS = ("/a", "/public", "/page", "/nowhere")
METHODS = ("POST", "PUT", "GET", "DELETE")
TOKENS = ("alice", "bob", "unknown", "")


@pytest.mark.parametrize("seed", range(3))
def test_whatever_clients_send_and_however_they_leave_nothing_stays_charged(seed: int) -> None:
    """Bodies of any size on any route: whole, incomplete, in chunks, reset, or with a request behind them."""

    async def send(server: Server, chance: random.Random) -> None:
        path, method, token = chance.choice(PATHS), chance.choice(METHODS), chance.choice(TOKENS)
        fields = [f"Authorization: Bearer {token}"] * (token != "") + ["Expect: 100-continue"] * (chance.random() < 0.1)
        announced, size = chance.randrange(LIMIT + 5_000), chance.randrange(LIMIT + 5_000)
        chunked = chance.random() < 0.5
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {announced}"
        async with server.connect(address=f"127.0.0.{chance.randrange(1, 5)}") as connection:
            with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                await connection.send(head(path, framing, *fields, method=method))
                while size > 0:
                    part = chance.randrange(1, 20_000)
                    await connection.send(chunk(part) if chunked else b"x" * part)
                    size -= part
                if chance.random() < 0.5:
                    await connection.send((LAST if chunked else b"x" * announced) + begin("/a", "alice"))
                    async with asyncio.timeout(0.2):
                        await connection.response()
            if chance.random() < 0.5:
                connection.reset()

    async def test() -> None:
        chance = random.Random(seed)
        async with serving(ROUTES, identity=tokens(), **SETTINGS | {"body_timeout": 0.5}) as server:
            await asyncio.gather(*(send(server, random.Random(chance.random())) for _ in range(150)))
            await until(lambda: not server.open_connections)
            assert server.reserved == 0

    run(test)


# Chunks of a byte.


@pytest.mark.parametrize("token", ["alice", "unknown"])
def test_a_body_in_chunks_of_a_byte_is_400_after_some_thousands(token: str) -> None:
    chunks = 40_000

    async def test() -> None:
        settings = SETTINGS | {"max_body_bytes": 10 * chunks, "max_total_body_bytes": 100 * chunks}
        async with serving(ROUTES, identity=tokens(), **settings) as server, server.connect() as connection:
            await connection.send(begin("/a", token) + chunk(1) * chunks)
            response = await connection.response()
            assert (response.status, response.headers["connection"]) == (400, "close")
            assert b"chunks" in response.body

    run(test)


@pytest.mark.parametrize(("size", "count"), [(1, 10_000), (100, 4_000), (1_000, 300)])
def test_a_body_in_small_chunks_is_accepted(size: int, count: int) -> None:
    async def test() -> None:
        settings = SETTINGS | {"max_body_bytes": size * count, "max_total_body_bytes": 10 * size * count}
        async with serving(ROUTES, **settings) as server, server.connect() as connection:
            await connection.send((begin("/a") + chunk(size) * count + LAST) * 2)
            for _ in range(2):
                assert (await connection.response()).body == str(size * count).encode()

    run(test)


# A client whose request is rejected, and that goes on sending.


@pytest.mark.parametrize(("path", "status"), [("/a", 401), ("/page", 405), ("/nowhere", 404)])
def test_a_client_that_goes_on_sending_a_rejected_body_is_answered_and_closed(path: str, status: int) -> None:
    async def test() -> None:
        async with (
            serving(ROUTES, identity=tokens(), **SETTINGS | {"body_timeout": 0.4}) as server,
            server.connect() as connection,
        ):
            await connection.send(begin(path))
            response = asyncio.create_task(connection.response())
            while not response.done():
                await connection.send(chunk(1_000))
                await asyncio.sleep(0.02)
            assert (response.result().status, response.result().headers["connection"]) == (status, "close")
            with suppress(ConnectionError):
                while await connection.reader.read(100):
                    pass
            await until(lambda: not server.open_connections)

    run(test)
