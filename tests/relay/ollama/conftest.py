"""What tests of the HTTP client share: both event loops, and clients that are closed after the test."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import pytest

from relay.ollama.http_client import StreamingClient

NewClient = Callable[..., StreamingClient]


@pytest.fixture(params=[{"use_uvloop": True}, {"loop_factory": asyncio.SelectorEventLoop}], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """A coroutine marked ``anyio`` runs on uvloop, as the server does, and on asyncio's own loop."""
    return "asyncio", request.param


@pytest.fixture
async def new_client() -> AsyncIterator[NewClient]:
    """Makes clients. After the test none has left a task or an open socket behind."""
    gc.freeze()  # what is older than the test need not be looked through after it
    with ExitStack() as clients:

        def new(**options: Any) -> StreamingClient:
            client = StreamingClient(force_instance=True, **options)
            clients.callback(client.close)
            return client

        yield new
    for _ in range(3):  # what was cancelled ends in its next turn, and asyncio closes sockets one turn later
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if "Transfer" in repr(task)]
    gc.collect()  # a socket that nobody closed warns, and a warning fails the test
    gc.unfreeze()
    assert not left


@pytest.fixture
async def http(new_client: NewClient) -> StreamingClient:
    """A client."""
    return new_client()
