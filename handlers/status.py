"""GET /status: the status page. GET /status/events: its metrics as they come, as server-sent events."""

import asyncio
import re

from tornado.iostream import StreamClosedError
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from handlers.base import BaseHandler
from handlers.pages import page
from relay.stream import sse

EVENT_ID = re.compile(r"([0-9a-f]+)-([0-9]{1,15})")
"""A process's key and how many of its samples were seen."""


class StatusEventsHandler(BaseHandler):
    """Tells one watcher how this process is doing, until it leaves or the process does.

    ``event: past`` is a JSON array of the samples since ``Last-Event-ID``; each event without a name is the newest
    sample and what is known besides. A watcher that is slow is told less often.
    """

    route = "/status/events"
    needs = Access.OPERATOR

    def initialize(self) -> None:
        """Nothing told yet (called by Tornado)."""
        super().initialize()
        self._telling: asyncio.Task[None] | None = None

    def on_connection_close(self) -> None:
        """Stop telling who has gone (called by Tornado)."""
        super().on_connection_close()
        if self._telling:
            self._telling.cancel()

    async def get(self) -> None:
        """Tell the samples kept, then each new one."""
        self.start_stream("text/event-stream; charset=utf-8")
        self._telling = asyncio.current_task()
        try:
            with self.services.status.watching():
                await self._tell(self._seen())
            self.finish()
        except (asyncio.CancelledError, StreamClosedError):
            self.log_fields["end"] = "client left"
        except TimeoutError:
            self.break_off("client too slow")

    def _seen(self) -> int:
        last = EVENT_ID.fullmatch(self.request.headers.get("Last-Event-ID", ""))
        return int(last[2]) if last and last[1] == self.services.status.key else 0

    async def _tell(self, seen: int) -> None:
        status = self.services.status
        seen = min(seen, status.count)
        await self.flush()
        while not status.ended:
            if status.count > seen + 1 or not seen:
                seen, past = status.kept(seen)
                await self._send(seen, "past", past)
            if status.count > seen:
                seen = status.count
                await self._send(seen, "message", status.newest)
            await status.wait(seen)

    async def _send(self, number: int, name: str, data: bytes) -> None:
        self.write(sse.named_event(f"{self.services.status.key}-{number}", name, data))
        await asyncio.wait_for(self.flush(), self.services.settings.client_write_timeout)


ROUTES = [
    page("/status", "status.html"),
    Rule(PathMatches(r"/status/events"), StatusEventsHandler),
]
