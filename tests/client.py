"""A client of chatterd's API for tests: sends prompts and parses the event streams of replies."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx
import ujson

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of plain HTTP; it trusts nobody. httpx would read all certification authorities for each client, in 40 ms
of CPU."""

TIMEOUT = 60.0
"""Seconds without a byte after which a request fails."""


@dataclass(frozen=True)
class Event:
    """A server-sent event: id, name (``message`` by default) and data."""

    id: int
    name: str
    data: str

    @property
    def json(self) -> Any:
        return ujson.loads(self.data)


class Stream:
    """An open response with a reply's event stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments: list[str] = []
        self._lines = (line.decode() for line in _lines(response))

    def next(self) -> Event | None:
        """Return the next event; None at the end of the stream."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                self.comments.append(line)
            elif line:
                name, colon, value = line.partition(":")
                assert colon, f"no colon in {line!r}: existing clients split each line at its first"
                fields[name] = value.removeprefix(" ")
            elif fields:
                return Event(int(fields["id"]), fields.get("event", "message"), fields["data"])
        assert not fields, f"the stream ended inside an event: {fields}"
        return None

    def comment(self) -> str:
        """Read the next comment.

        :raises AssertionError: an event comes first, or the stream ends.
        """
        for line in self._lines:
            if line.startswith(":"):
                return line
            assert not line, f"an event before a comment: {line}"
        raise AssertionError("the stream ended before a comment")

    def rest(self) -> list[Event]:
        """Read all events to the end of the stream."""
        return list(iter(self.next, None))


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """Yield the response's lines as they arrive, split at LF only."""
    held = b""
    for chunk in response.iter_raw():
        *whole, held = (held + chunk).split(b"\n")
        yield from whole
    assert not held, f"the stream ended inside a line: {held[:100]!r}"


class Client:
    """A client of one chatterd, with a new conversation unless ``appid`` names one.

    Close it with a ``with`` block: a connection left open fails a later test, by a ResourceWarning.
    """

    def __init__(self, url: str, appid: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.http = httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False, verify=tls or NO_TLS)
        self.appid = appid or f"test-{uuid4()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.http.close()

    def body(self, *contents: str, **fields: Any) -> dict[str, Any]:
        """Return the body of a request with user messages of these contents."""
        messages = [{"role": "user", "content": content} for content in contents]
        return {"appID": self.appid, "model": "fake", "messages": messages, "stream": True} | fields

    @contextmanager
    def prompt(self, *contents: str, headers: dict[str, str] | None = None, **fields: Any) -> Iterator[Stream]:
        """POST a prompt; yield its reply's stream."""
        with self.http.stream("POST", "/llmchat", json=self.body(*contents, **fields), headers=headers) as response:
            yield Stream(_expect(response, 200))

    def ask(self, *contents: str, headers: dict[str, str] | None = None, **fields: Any) -> list[Event]:
        """POST a prompt and return all events of its reply."""
        with self.prompt(*contents, headers=headers, **fields) as stream:
            return stream.rest()

    def begin(self, *contents: str, headers: dict[str, str] | None = None, **fields: Any) -> str:
        """POST a prompt with ``Prefer: respond-async`` and return the reply's path."""
        headers = {"Prefer": "respond-async"} | (headers or {})
        answer = self.http.post("/llmchat", json=self.body(*contents, **fields), headers=headers)
        return str(_expect(answer, 202).headers["Location"])

    @contextmanager
    def follow(self, path: str, last_event_id: int | None = None) -> Iterator[Stream]:
        """GET a reply; yield its stream."""
        headers = {} if last_event_id is None else {"Last-Event-ID": str(last_event_id)}
        with self.http.stream("GET", path, headers=headers) as response:
            yield Stream(_expect(response, 200))

    def view(self, path: str, last_event_id: int | None = None) -> list[Event]:
        """GET a reply and return all its events."""
        with self.follow(path, last_event_id) as stream:
            return stream.rest()

    def history(self, **query: Any) -> dict[str, Any]:
        """Return the newest page of the conversation."""
        answer = self.http.get("/llmchat", params={"appID": self.appid} | query)
        return dict(_expect(answer, 200).json())

    def messages(self) -> list[tuple[str, str]]:
        """Return the conversation as (role, content) pairs; large messages are on pages of their own."""
        page = self.history()
        found = page["messages"]
        while page["before"] is not None:
            page = self.history(before=page["before"])
            found = page["messages"] + found
        return [(message["role"], message["content"]) for message in found]


def _expect(response: httpx.Response, status: int) -> httpx.Response:
    if response.status_code != status:
        response.read()
    assert response.status_code == status, response.text
    return response
