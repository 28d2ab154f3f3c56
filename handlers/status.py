"""``GET /status``: the status page. ``GET /status/events``: its data as server-sent events."""

import asyncio
import re
from collections.abc import Iterable, Iterator

from tornado.iostream import StreamClosedError
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from handlers.pages import page
from relay.stream import sse
from web.responses.streaming import StreamingHandler

EVENT_ID = re.compile(r"([0-9a-f]+)-([0-9]{1,15})")
"""A process's key, and how many of its samples were sent."""

SAMPLES_PER_WRITE = 32
"""Samples given to a socket at once; they have less than 1 kB each."""


class StatusEventsHandler(StreamingHandler):
    """Streams the samples of this process to one client, until it disconnects or the process ends.

    ``event: past`` is a JSON array of the samples since ``Last-Event-ID``; each event without a name is the newest
    sample with the state of this process. A slow client gets fewer events.
    """

    route = "/status/events"
    access = Access.OPERATOR

    async def get(self) -> None:
        """Stream the retained samples, then each new one."""
        self.start_stream("text/event-stream; charset=utf-8")
        self.cancel_on_disconnect()
        try:
            with self.services.status.watching():
                await self._send_samples(self._last_seen())
            await self.finish_stream()
        except (asyncio.CancelledError, StreamClosedError):
            self.log_fields["abort_reason"] = "client left"
        except TimeoutError:
            self.abort_stream("client too slow")

    def _last_seen(self) -> int:
        last = EVENT_ID.fullmatch(self.request.headers.get("Last-Event-ID", ""))
        return int(last[2]) if last and last[1] == self.services.status.key else 0

    async def _send_samples(self, seen: int) -> None:
        status = self.services.status
        seen = min(seen, status.count)
        await self.flush()
        while not status.ended:
            if status.count > seen + 1 or not seen:
                seen, past = status.kept(seen)
                await self._send(seen, "past", _array(past))
            if status.count > seen:
                seen = status.count
                await self._send(seen, "message", [status.newest])
            await status.wait(seen)

    async def _send(self, number: int, name: str, data: Iterable[bytes]) -> None:
        await self.write_slices(sse.named_event(f"{self.services.status.key}-{number}", name, data))


def _array(samples: list[bytes]) -> Iterator[bytes]:
    """Return a JSON array in slices: its samples are in memory once for all clients."""
    yield b"["
    for start in range(0, len(samples), SAMPLES_PER_WRITE):
        yield (b"," if start else b"") + b",".join(samples[start : start + SAMPLES_PER_WRITE])
    yield b"]"


ROUTES = [
    page("/status", "status.html"),
    Rule(PathMatches(r"/status/events"), StatusEventsHandler),
]
