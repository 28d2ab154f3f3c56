"""Fixtures of the HTTP client's tests: both event loops, and clients that are closed after the test."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import pytest

from relay.ollama.http_client import StreamingClient

NewClient = Callable[..., StreamingClient]


@pytest.fixture(
    params=[
        pytest.param({"use_uvloop": True}, id="uvloop"),
        pytest.param({"loop_factory": asyncio.SelectorEventLoop}, id="asyncio", marks=pytest.mark.extended),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run tests marked ``anyio`` on uvloop, which the server uses, and, with `make test-all`, on asyncio's own loop."""
    return "asyncio", request.param


@pytest.fixture
async def new_client() -> AsyncIterator[NewClient]:
    """A factory of clients. Fails the test if a client leaves a task or an open socket behind."""
    gc.freeze()  # keep the collection after the test short
    with ExitStack() as clients:

        def new(**options: Any) -> StreamingClient:
            client = StreamingClient(force_instance=True, **options)
            clients.callback(client.close)
            return client

        yield new
    for _ in range(3):  # cancelled tasks end in the next iteration, asyncio closes sockets in the one after
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if "Transfer" in repr(task)]
    gc.collect()  # an unclosed socket warns when it is collected, and a warning fails the test
    gc.unfreeze()
    assert not left


@pytest.fixture
async def http(new_client: NewClient) -> StreamingClient:
    """A client."""
    return new_client()
