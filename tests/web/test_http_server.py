"""Connections: more than the process may open files for, and requests that are malformed in unusual ways."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from auth.principal import Access
from tests.client import Client
from tests.fakes.ollama import ScriptedOllama
from tests.program import Program
from tests.raw import drop_all_packets, head, raw
from tests.web.serving import run, serving, until
from web.base import BaseHandler
from web.connections import http_server
from web.connections.disconnection import DisconnectWatch

OPEN_FILES, CONNECTIONS = 150, 200


@pytest.fixture
def few_files(start_chatterd: Callable[..., Program], database_url: str, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A server with a low limit of open files."""
    original = subprocess.Popen

    def start(command: list[str], **options: object) -> object:
        limits = f"({OPEN_FILES}, {OPEN_FILES})"
        program = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, {limits});"
        command = [sys.executable, "-c", program + "os.execv(sys.argv[1], sys.argv[1:])", *command]
        return original(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", start)
    return start_chatterd(database_url=database_url, idle_connection_timeout=3)


@pytest.mark.expects_log("too few open files")
def test_connections_beyond_the_limit_wait_and_leave_file_descriptors_for_replies(
    few_files: Program, ollama: ScriptedOllama
) -> None:
    host = urlsplit(few_files.url)
    with Client(few_files.url) as client, ExitStack() as idle:
        client.messages()  # opens the connection
        for _ in range(CONNECTIONS):
            idle.enter_context(socket.create_connection((str(host.hostname), int(host.port or 0))))
        few_files.wait_log("too few open files")
        assert client.ask("hi")[-1].json["done"]
        with raw(few_files.url) as late:
            late.send(head("/healthz", "Connection: close", method="GET"))
            assert late.answer().status == 200  # after the idle connections were closed
    assert few_files.log.count("too few open files") == 1
    assert len(few_files.log) < 100_000


class Handler(BaseHandler):
    access = Access.AUTHENTICATED

    def get(self) -> None:
        self.write_json("done")


@pytest.mark.parametrize("port", ["9" * 5_000, "9" * 1_023])
def test_a_host_with_an_overlong_port_is_rejected_without_an_error_in_the_log(port: str) -> None:
    """Python raises an error for the conversion of more than 4,300 digits."""

    async def test() -> None:
        async with serving([("/", Handler)]) as server, server.connect() as connection:
            await connection.send(f"GET / HTTP/1.1\r\nHost: x:{port}\r\n\r\n".encode())
            assert await connection.rest() == b"HTTP/1.1 400 Bad Request\r\n\r\n"

    run(test)


def test_a_long_host_is_accepted() -> None:
    async def test() -> None:
        async with serving([("/", Handler)]) as server, server.connect() as connection:
            await connection.send(f"GET / HTTP/1.1\r\nHost: {'x' * 1_000}:99999\r\n\r\n".encode())
            assert (await connection.response()).status == 200

    run(test)


class KeepaliveHandler(BaseHandler):
    access = Access.AUTHENTICATED

    def get(self) -> None:
        connection = self._connection.stream.socket
        options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
        enabled = connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        self.write_json([enabled, *(connection.getsockopt(socket.IPPROTO_TCP, option) for option in options)])


def test_connections_have_keepalive_so_that_a_client_that_has_vanished_is_noticed() -> None:
    async def test() -> None:
        async with serving([("/", KeepaliveHandler)]) as server, server.connect() as connection:
            await connection.send(head("/", method="GET"))
            assert (await connection.response()).body == b"[1,60,10,3]"

    run(test)


class SilentHandler(BaseHandler):
    """Responds when the connection is closed."""

    access = Access.AUTHENTICATED
    closed: asyncio.Event

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.closed.set()

    async def get(self) -> None:
        with DisconnectWatch(self._connection.stream):
            await self.closed.wait()


def test_a_client_that_vanishes_after_one_more_byte_is_noticed_without_a_byte_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "KEEPALIVE", {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 1})

    async def test() -> None:
        SilentHandler.closed = asyncio.Event()
        async with serving([("/", SilentHandler)]) as server, server.connect() as connection:
            await connection.send(head("/", method="GET") + b"G")
            await until(lambda: server.open_connections == 1)
            drop_all_packets(connection.writer.get_extra_info("socket"))
            await SilentHandler.closed.wait()
            await until(lambda: not server.open_connections)

    run(test)
