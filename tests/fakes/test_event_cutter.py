"""The proxy that cuts event streams."""

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from tests.client import NO_TLS

from .event_cutter import EventCutter

EVENTS = [b"id: %d\n\n" % number for number in range(10)]


class Handler(BaseHTTPRequestHandler):
    """Sends all events at once, and then the end of the body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"".join(EVENTS)
        self.send_response(200)
        self.send_header("Connection", "close")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_first_responses_to_each_request_are_cut_within_an_event(url: str) -> None:
    with EventCutter(url, 4, 3) as cutter, httpx.Client(verify=NO_TLS) as client:
        requests: list[Callable[[], httpx.Response]] = [
            lambda: client.get(f"{cutter.url}/a?lastEventId=5"),
            lambda: client.post(f"{cutter.url}/a", content=b"one", headers={"Last-Event-ID": "7"}),
            lambda: client.post(f"{cutter.url}/a", content=b"two"),
        ]
        for send in requests:
            for _ in range(3):
                with pytest.raises(httpx.TransportError):
                    send()
            assert send().content == b"".join(EVENTS)
        told = [(one.method, one.path, one.body, one.last_event_id) for one in cutter.requests[::4]]
        assert told == [("GET", "/a", b"", "5"), ("POST", "/a", b"one", "7"), ("POST", "/a", b"two", None)]
        assert len(cutter.requests) == 12


def test_a_cut_response_has_the_events_before(url: str) -> None:
    with (
        EventCutter(url, 4, 1) as cutter,
        httpx.Client(verify=NO_TLS) as client,
        client.stream("GET", cutter.url) as response,
    ):
        received = b""
        with pytest.raises(httpx.RemoteProtocolError):
            for piece in response.iter_raw():
                received += piece
        assert b"".join(EVENTS).startswith(received.removesuffix(b"id: ")) and received.count(b"\n\n") == 4
