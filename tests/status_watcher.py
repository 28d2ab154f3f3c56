"""A client of /status/events for tests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import ujson

from tests.client import NO_TLS

PATIENCE = 60.0
"""Timeout of :meth:`Watcher.until`, in seconds."""


@dataclass(frozen=True)
class Told:
    """A server-sent event."""

    id: str
    name: str
    json: Any


class Watcher:
    """An open stream.

    :ivar seen: all bytes received.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.seen = b""
        self._events = self._read()

    def _read(self) -> Iterator[Told]:
        held = b""
        for chunk in self.response.iter_raw():
            self.seen += chunk
            *whole, held = (held + chunk).split(b"\n\n")
            for event in whole:
                fields = dict(line.split(": ", 1) for line in event.decode().split("\n"))
                yield Told(fields["id"], fields["event"], ujson.loads(fields["data"]))
        assert not held, f"the stream ended inside an event: {held[:100]!r}"

    def next(self) -> Told | None:
        """Return the next event; None at the end of the stream."""
        return next(self._events, None)

    def until(self, holds: Callable[[Any], Any]) -> Any:
        """Read until ``holds`` is true of a current sample, and return that sample.

        :raises TimeoutError: there is none.
        """
        deadline = time.monotonic() + PATIENCE
        last = None
        while time.monotonic() < deadline:
            told = self.next()
            if told is None:
                break
            if told.name == "message":
                last = told.json
                if holds(last):
                    return last
        raise TimeoutError(f"no such sample; the last one: {last}")


@contextmanager
def watch(url: str, last_event_id: str | None = None) -> Iterator[Watcher]:
    """Yield a watcher of one process."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with (
        httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False, verify=NO_TLS) as http,
        http.stream("GET", "/status/events", headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store, no-transform"
        yield Watcher(response)
