"""Reads a reply with a Python library, or curl, and prints the events as JSON: a list of [id, name, data].

Argument: JSON with ``library``, ``method``, ``url``, ``body`` (null for GET), ``closes`` (whether to stop at the last
event; else the library decides). Libraries that do not reconnect are called again, with GET and the id of the last
event, as docs/clients.md says. Time limits are the libraries' own.
"""

import asyncio
import functools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

RETRY_PAUSE = 0.2
"""Seconds before a reply is followed again."""

MAX_TRIES = 50

MAX_LINE = 16 * 2**20
"""Bytes of a line that aiohttp may buffer (half of it is its limit of a line)."""


class Event(NamedTuple):
    id: str
    name: str
    data: str

    @property
    def ends(self) -> bool:
        """Whether it is the last event of a reply."""
        return self.name == "error" or bool(json.loads(self.data).get("done"))


class Request(NamedTuple):
    method: str
    url: str
    body: Any
    headers: Mapping[str, str]


class Disconnected(Exception):
    """The connection was lost; ``location`` is the reply's path, if the response had begun."""


Reader = Callable[[Request, Callable[[str], None]], Iterator[Event]]
"""Reads one response; reports its ``Content-Location``."""


def read_httpx_sse(request: Request, located: Callable[[str], None]) -> Iterator[Event]:
    import httpx
    from httpx_sse import connect_sse

    try:
        with (
            httpx.Client() as client,
            connect_sse(client, request.method, request.url, json=request.body, headers={**request.headers}) as source,
        ):
            if source.response.status_code == 204:
                return
            source.response.raise_for_status()
            located(source.response.headers["Content-Location"])
            for event in source.iter_sse():
                yield Event(event.id or "", event.event, event.data)
    except httpx.TransportError as error:
        raise Disconnected from error


def read_sseclient_py(request: Request, located: Callable[[str], None]) -> Iterator[Event]:
    import sseclient

    with responded(request, located) as response:
        if response is not None:
            for event in sseclient.SSEClient(response.iter_content(65_536)).events():
                yield Event(event.id or "", event.event, event.data)


def read_requests(request: Request, located: Callable[[str], None]) -> Iterator[Event]:
    with responded(request, located) as response:
        if response is not None:
            yield from parse(line.decode() for line in response.iter_lines(chunk_size=65_536))


@contextmanager
def responded(request: Request, located: Callable[[str], None]) -> Iterator[Any]:
    """Send a request with requests; yield its response, None if the reply has no more events."""
    import requests

    try:
        with requests.request(
            request.method, request.url, json=request.body, headers={**request.headers}, stream=True
        ) as response:
            if response.status_code == 204:
                yield None
                return
            response.raise_for_status()
            located(response.headers["Content-Location"])
            yield response
    except requests.RequestException as error:
        raise Disconnected from error


def read_curl(request: Request, located: Callable[[str], None]) -> Iterator[Event]:
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--fail-with-body", "--request", request.method]
    fields = dict(request.headers)
    if request.body is not None:
        command += ["--data-binary", "@-"]
        fields["Content-Type"] = "application/json"
    for name, value in fields.items():
        command += ["--header", f"{name}: {value}"]
    command += ["--dump-header", "/dev/stderr", request.url]
    curl = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with curl:
        assert curl.stdin and curl.stdout and curl.stderr
        curl.stdin.write(json.dumps(request.body).encode() if request.body is not None else b"")
        curl.stdin.close()
        for field in iter(curl.stderr.readline, b"\r\n"):
            name, _, value = field.decode().strip().partition(": ")
            if name.lower() == "content-location":
                located(value)
            if not field:
                raise Disconnected
        yield from parse(line.decode().rstrip("\n") for line in curl.stdout)
    if curl.returncode:
        raise Disconnected


def parse(lines: Iterator[str]) -> Iterator[Event]:
    """Parse the lines of a stream, as far as chatterd's need it: one line of data per event."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield Event(fields["id"], fields.get("event", "message"), fields["data"])
            fields = {}


async def read_aiohttp(request: Request, located: Callable[[str], None]) -> AsyncIterator[Event]:
    import aiohttp

    try:
        async with (
            aiohttp.ClientSession(read_bufsize=MAX_LINE) as session,
            session.request(request.method, request.url, json=request.body, headers=request.headers) as response,
        ):
            if response.status == 204:
                return
            response.raise_for_status()
            located(response.headers["Content-Location"])
            fields: dict[str, str] = {}
            async for line in response.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    yield Event(fields["id"], fields.get("event", "message"), fields["data"])
                    fields = {}
    except aiohttp.ClientError as error:
        raise Disconnected from error


def read_large_chunks(response: Any, **_: Any) -> None:
    """Let ``iter_lines`` read 64 KiB at a time, not 512 bytes, of which each copies the line so far."""
    response.iter_lines = functools.partial(response.iter_lines, chunk_size=65_536)


def read_requests_sse(request: Request) -> Iterator[Event]:
    from requests_sse import EventSource, InvalidStatusCodeError

    with (
        EventSource(
            request.url,
            method=request.method,
            json=request.body,
            headers={**request.headers},
            reconnection_time=timedelta(seconds=RETRY_PAUSE),
            hooks={"response": read_large_chunks},
        ) as source,
        suppress(InvalidStatusCodeError),
    ):  # 204
        for event in source:
            yield Event(event.last_event_id, event.type or "message", event.data or "")


async def read_aiohttp_sse_client(request: Request, _: Callable[[str], None]) -> AsyncIterator[Event]:
    import aiohttp
    from aiohttp_sse_client.client import EventSource

    try:
        async with (
            aiohttp.ClientSession(read_bufsize=MAX_LINE) as session,
            EventSource(
                request.url,
                option={"method": request.method},
                session=session,
                json=request.body,
                headers={**request.headers},
            ) as source,
        ):
            async for event in source:
                yield Event(event.last_event_id, event.type or "message", event.data)
    except aiohttp.ClientError as error:
        raise Disconnected from error


def until_end(events: Iterator[Event], closes: bool) -> list[Event]:
    """Read to the last event of the reply."""
    read = []
    for event in events:
        read.append(event)
        if event.ends and closes:
            break
    return read


def follow(reader: Reader, request: Request) -> list[Event]:
    """Read to the last event of the reply, over as many connections as it takes."""
    read: list[Event] = []

    def located(path: str) -> None:
        nonlocal request
        base = "/".join(request.url.split("/")[:3])
        request = Request("GET", base + path, None, {})

    for _ in range(MAX_TRIES):
        if read:
            request = request._replace(headers={"Last-Event-ID": read[-1].id})
        try:
            for event in reader(request, located):
                read.append(event)
                if event.ends:
                    return read
        except Disconnected:
            pass
        time.sleep(RETRY_PAUSE)
    raise TimeoutError("the reply does not end")


def synchronous(reader: Callable[[Request, Callable[[str], None]], AsyncIterator[Event]]) -> Reader:
    """Return a reader that runs an asynchronous one."""

    def read(request: Request, located: Callable[[str], None]) -> Iterator[Event]:
        with asyncio.Runner() as runner:
            events = reader(request, located)
            while True:
                try:
                    yield runner.run(anext(events))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return

    return read


READERS: dict[str, Reader] = {
    "httpx-sse": read_httpx_sse,
    "sseclient-py": read_sseclient_py,
    "requests": read_requests,
    "aiohttp": synchronous(read_aiohttp),
    "aiohttp-sse-client": synchronous(read_aiohttp_sse_client),
    "curl": read_curl,
}
"""Libraries that read one response."""


def main() -> None:
    """Read as the argument says."""
    options = json.loads(sys.argv[1])
    request = Request(options["method"], options["url"], options["body"], {})
    match options["library"]:
        case "requests-sse":
            events = until_end(read_requests_sse(request), options["closes"])
        case library:
            events = follow(READERS[library], request)
    json.dump(events, sys.stdout)


if __name__ == "__main__":
    main()
