"""The course's apps as clients: what they send, and how they parse an event stream.

The Swift app is written after a public copy of the course's ``ChattStore.swift`` (llmTools, llmPrep), but a line
without a colon crashes it, as in the tutorial. The Kotlin app does the same with OkHttp's ``readUtf8Line``; the older
ones require ``created_at`` in each message.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Self

import httpx

from tests.client import NO_TLS, TIMEOUT


@dataclass
class Shown:
    """What the app shows of one reply: its text, its errors, and what it prints for its developer."""

    text: str = ""
    errors: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)


class App:
    """An app on one device.

    :param appid: the app's bundle name, the same on all devices.
    """

    headers: ClassVar[dict[str, str]] = {"Content-Type": "application/json; charset=utf-8"}
    required: ClassVar[tuple[str, ...]] = ("model", "message")
    """The fields that a message must have; without them, decoding fails and the app shows the error."""

    def __init__(self, url: str, appid: str, model: str = "fake") -> None:
        self.appid = appid
        self.model = model
        self.http = httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False, verify=NO_TLS, headers=self.headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.http.close()

    def body(self, role: str, content: str, stream: bool) -> dict[str, Any]:
        """Return the body of a request."""
        messages = [{"role": role, "content": content}]
        return {"appID": self.appid, "model": self.model, "messages": messages, "stream": stream}

    def send(self, prompt: str) -> Shown:
        """Send a prompt, and return what is shown when the stream has ended."""
        with self.streaming(prompt) as shown:
            *_, last = shown
            return last

    def prepare(self, system: str) -> int:
        """Send the system prompt as at each launch; return the status, of which only 200 matters."""
        return self.http.post("/llmprep", json=self.body("system", system, stream=False)).status_code

    @contextmanager
    def streaming(self, prompt: str) -> Iterator[Iterator[Shown]]:
        """Send a prompt; yield what is shown after each line. The end of the block closes the app."""
        body = self.body("user", prompt, stream=True)
        with self.http.stream("POST", "/llmchat", json=body) as response:
            yield self._parse(response)

    def _parse(self, response: httpx.Response) -> Iterator[Shown]:
        shown, event = Shown(), "message"
        if response.status_code != 200:
            shown.errors.append(f"{response.status_code} {response.read().decode()}")
        else:
            for line in _lines(response):
                event = self._take(line, event, shown)
                yield shown
        yield shown

    def _take(self, line: str, event: str, shown: Shown) -> str:
        """Take one line; return the event that the next one belongs to."""
        if not line:
            return "message"
        name, value = line.split(":", maxsplit=1)  # a line without a colon crashes the app
        if name.startswith("event"):
            if value.strip() in ("error", "message"):
                return value.strip()
            shown.printed.append(f"unknown event: {value!r}")
        elif name.startswith("data") and event == "error":
            shown.errors.append(json.loads(value)["error"])
        elif name.startswith("data"):
            self._show(json.loads(value), shown)
        return event

    def _show(self, message: dict[str, Any], shown: Shown) -> None:
        missing = [name for name in self.required if not isinstance(message.get(name), str | dict)]
        if missing:
            shown.errors.append(f"decoding failed: {missing} not found in {message}")
        else:
            shown.text += message["message"].get("content") or ""


class SwiftApp(App):
    """URLSession; 1,200 s without a byte fail."""

    headers = App.headers | {"Accept": "text/event-streaming", "Accept-Encoding": "gzip, deflate, br"}


class KotlinApp(App):
    """OkHttp, which asks for gzip by itself; without timeouts."""

    headers = App.headers | {"Accept": "text/event-stream", "Accept-Encoding": "gzip", "User-Agent": "okhttp/5.1.0"}


class OlderKotlinApp(KotlinApp):
    """One whose messages have no optional fields."""

    required = ("model", "created_at", "message")


APPS: tuple[type[App], ...] = (SwiftApp, KotlinApp, OlderKotlinApp)


def _lines(response: httpx.Response) -> Iterator[str]:
    """Yield the lines as they arrive, split at LF or CRLF."""
    held = b""
    for chunk in response.iter_bytes():
        *whole, held = (held + chunk).split(b"\n")
        yield from (line.decode().removesuffix("\r") for line in whole)
