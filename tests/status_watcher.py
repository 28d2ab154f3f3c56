"""A watcher of /status/events for tests: what it was told, as it comes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import ujson

PATIENCE = 60.0
"""Seconds after which something that a watcher waits to be told never will be."""


@dataclass(frozen=True)
class Told:
    """One event."""

    id: str
    name: str
    json: Any


class Watcher:
    """An open stream.

    :ivar seen: all that came over it.
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
        """The next event; None at the stream's end."""
        return next(self._events, None)

    def until(self, holds: Callable[[Any], Any]) -> Any:
        """Read on to the first newest sample, and what goes with it, of which something holds.

        :raises TimeoutError: there was none.
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
        raise TimeoutError(f"was never told so; at last: {last}")


@contextmanager
def watch(url: str, last_event_id: str | None = None) -> Iterator[Watcher]:
    """Watch one process."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with (
        httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as http,
        http.stream("GET", "/status/events", headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        yield Watcher(response)
