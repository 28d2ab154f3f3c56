"""The proxy between chatterd and PostgreSQL does what it says, at any moment."""

import asyncio
import socket
import threading
from urllib.parse import urlsplit

import pytest

from tests.fakes.ollama import PATIENCE
from tests.fakes.proxy import CuttingProxy


def test_a_connection_accepted_in_the_turn_of_the_cut_is_cut_too(postgres: str) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        go_on.wait()

    with CuttingProxy(postgres) as proxy:
        proxy._loop.call_soon_threadsafe(work)  # after which it finds the connection and the cut in one turn
        busy.wait()
        with socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0), PATIENCE) as client:
            cutting = asyncio.run_coroutine_threadsafe(proxy._cut(), proxy._loop)
            go_on.set()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            cutting.result(PATIENCE)
