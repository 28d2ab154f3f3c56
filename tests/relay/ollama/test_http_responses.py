"""How StreamingClient handles valid and invalid HTTP/1.1 responses."""

import asyncio
import gzip
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tornado.httpclient import HTTPError, HTTPRequest, HTTPResponse

from relay.ollama import transfer
from relay.ollama.http_client import StreamingClient
from relay.ollama.response_parser import RemoteProtocolError
from relay.ollama.transfer import Transfer
from tests.fakes.peer import Peer

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ZIPPED = gzip.compress(b"words", mtime=0)


@dataclass
class Recorded:
    """A request whose callbacks record what they are passed."""

    request: HTTPRequest
    head: list[str] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, url: str) -> "Recorded":
        recorded = cls(HTTPRequest(url, request_timeout=0))
        recorded.request.header_callback = recorded.head.append
        recorded.request.streaming_callback = recorded.chunks.append
        return recorded


async def streamed(http: StreamingClient, answer: bytes) -> tuple[Recorded, HTTPResponse]:
    """Fetch a response of these bytes, after which the server closes the connection."""
    async with Peer() as peer:
        recorded = Recorded.of(peer.url())
        fetch = http.fetch(recorded.request, raise_error=False)
        connection = await peer.accept()
        await connection.request()
        connection.say(answer)
        connection.close()
        return recorded, await fetch


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nwords", 200, b"words"),
        (OK + b"Content-Length: 0\r\n\r\n", 200, b""),
        (OK + b"\r\nwords", 200, b"words"),
        (b"HTTP/1.0 200 OK\r\n\r\nwords", 200, b"words"),
        (CHUNKED + b"3\r\nwor\r\n2\r\nds\r\n0\r\n\r\n", 200, b"words"),
        (CHUNKED + b'5;name=value;other="x y"\r\nwords\r\n0;last\r\n\r\n', 200, b"words"),
        (CHUNKED + b"5\r\nwords\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n", 200, b"words"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nwords", 200, b"words"),
        (b"HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n" + CHUNKED + b"5\r\nwords\r\n0\r\n\r\n", 200, b"words"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
        (b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n", 302, b""),
        (b"HTTP/1.1 599 Own\r\nContent-Length: 5\r\n\r\nwords", 599, b"words"),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED, 200, ZIPPED),
    ],
)
async def test_head_and_body_are_passed_on_unchanged_without_interim_responses_and_trailers(
    http: StreamingClient, answer: bytes, status: int, body: bytes
) -> None:
    recorded, response = await streamed(http, answer)
    assert (response.code, b"".join(recorded.chunks)) == (status, body)
    assert recorded.head[0] == f"HTTP/1.1 {status}\r\n" and recorded.head[-1] == "\r\n"
    assert not any(line.startswith(("X-Early", "X-Sum")) for line in recorded.head)
    assert "X-Sum" not in response.headers


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        OK + b"Content-Length: 6\r\n\r\nwords",
        CHUNKED + b"5\r\nwor",
        CHUNKED + b"5\r\nwords\r\n",
        CHUNKED + b"5\r\nwords\r\n0\r\nX-Sum: 1\r\n",
        CHUNKED + b"x\r\nwords\r\n",
        CHUNKED + b"5\r\nwordsandmore\r\n0\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwords\r\n0\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nwords",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Bad Name: 1\r\n\r\n",
        OK + b"X: a\x01b\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nwords",
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
)
async def test_an_incomplete_or_invalid_response_is_a_protocol_error(http: StreamingClient, answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        await streamed(http, answer)


async def test_a_reset_is_a_protocol_error_though_the_connections_end_would_end_the_response(
    http: StreamingClient,
) -> None:
    async with Peer() as peer:
        taken = asyncio.Queue[bytes]()
        fetch = http.fetch(HTTPRequest(peer.url(), streaming_callback=taken.put_nowait))
        connection = await peer.accept()
        connection.say(OK + b"\r\nwords")
        assert await taken.get() == b"words"
        connection.reset()
        with pytest.raises(RemoteProtocolError):
            await fetch


@pytest.mark.parametrize(
    "more", [b"words again", OK + b"Content-Length: 4\r\n\r\nmore", b"\r\n\r\n", b"0\r\n\r\n", CHUNKED]
)
@pytest.mark.parametrize("fields", [b"", b"Connection: close\r\n"])
async def test_bytes_after_the_response_are_ignored(http: StreamingClient, fields: bytes, more: bytes) -> None:
    recorded, response = await streamed(http, OK + fields + b"Content-Length: 5\r\n\r\nwords" + more)
    assert (response.code, recorded.chunks, recorded.head.count("\r\n")) == (200, [b"words"], 1)


async def test_a_response_is_complete_where_it_says_though_the_connection_stays_open(http: StreamingClient) -> None:
    async with Peer() as peer:
        fetch = http.fetch(peer.url())
        connection = await peer.accept()
        connection.say(CHUNKED + b"5\r\nwords\r\n0\r\n\r\n")
        assert (await fetch).body == b"words"
        await connection.left()


async def test_each_piece_is_passed_on_before_the_next_arrives(http: StreamingClient) -> None:
    async with Peer() as peer:
        taken = asyncio.Queue[bytes]()
        fetch = http.fetch(HTTPRequest(peer.url(), streaming_callback=taken.put_nowait))
        connection = await peer.accept()
        for piece in (CHUNKED + b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r", b"\n1\r\nd"):
            connection.say(piece)
            assert await taken.get() == piece.strip(b"\r\n")[-1:]
        connection.say(b"\r\n0\r\n\r\n")
        assert (await fetch).body == b""


async def test_a_redirect_is_not_followed(http: StreamingClient) -> None:
    async with Peer() as peer:
        fetch = http.fetch(HTTPRequest(peer.url(), follow_redirects=True, max_redirects=9))
        connection = await peer.accept()
        connection.say(b"HTTP/1.1 301 Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % peer.url("/b").encode())
        with pytest.raises(HTTPError) as raised:
            await fetch
        await connection.left()
        assert raised.value.code == 301 and len(peer.arrived) == 1


@pytest.mark.parametrize("piece", [b"X: y\r\n", b"x" * 1000, b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_head_that_is_too_long_closes_the_connection(http: StreamingClient, piece: bytes) -> None:
    async with Peer() as peer:
        fetch = http.fetch(peer.url())
        connection = await peer.accept()
        connection.say((b"" if piece.startswith(b"HTTP") else OK + b"X: ") + piece * (300_000 // len(piece)))
        with pytest.raises(RemoteProtocolError, match="more than 262144 bytes of headers"):
            await fetch
        await connection.left()


async def test_a_body_that_is_too_long_to_be_collected_closes_the_connection(
    http: StreamingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BODY_LIMIT", 100_000)
    async with Peer() as peer:
        fetch = http.fetch(peer.url())
        connection = await peer.accept()
        connection.say(OK + b"\r\n" + b"x" * 100_001)
        with pytest.raises(RemoteProtocolError, match="larger than 100000 bytes"):
            await fetch
        await connection.left()


@pytest.mark.parametrize("start", [b"0\r\nX: ", b"0\r\nX", b"5;", b"5;a="], ids=repr)
@pytest.mark.parametrize("piece", [b"y" * 10_000, b"y" * 90], ids=len)
async def test_a_trailer_or_chunk_extension_that_is_too_long_closes_the_connection(
    http: StreamingClient, start: bytes, piece: bytes
) -> None:
    async with Peer() as peer:
        fetch = http.fetch(HTTPRequest(peer.url(), streaming_callback=lambda _: None))
        connection = await peer.accept()
        connection.say(CHUNKED + b"5\r\nwords\r\n" + start)
        for _ in range(300_000 // len(piece)):
            connection.say(piece)
        with pytest.raises(RemoteProtocolError, match="more than 262144 bytes of headers"):
            await fetch
        await connection.left()


@pytest.mark.parametrize("size", [1, 90_000, 900_000])
@pytest.mark.parametrize("head", [CHUNKED, OK + b"\r\n", OK + b"Content-Length: 900000\r\n\r\n"])
async def test_a_long_response_is_complete(http: StreamingClient, head: bytes, size: int) -> None:
    body = bytes(range(250)) * 3600
    sent = body
    if head == CHUNKED:
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    recorded, response = await streamed(http, head + sent)
    assert (response.code, b"".join(recorded.chunks)) == (200, body)


async def test_pieces_that_precede_an_invalid_chunk_in_the_same_bytes_are_passed_on(http: StreamingClient) -> None:
    async with Peer() as peer:
        recorded = Recorded.of(peer.url())
        fetch = http.fetch(recorded.request)
        (await peer.accept()).say(CHUNKED + b"1\r\na\r\n1\r\nb\r\nno chunk\r\n")
        with pytest.raises(RemoteProtocolError, match="invalid HTTP response"):
            await fetch
        assert recorded.chunks == [b"a", b"b"]


# Any division of the bytes into reads.


def cut(data: bytes, places: list[int]) -> list[bytes]:
    places = sorted({place % len(data) for place in places})
    return [piece for start, end in zip([0, *places], [*places, None], strict=True) if (piece := data[start:end])]


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=300) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b'{"done":true}\n'])),
    st.lists(st.integers(0, 10_000)),
    st.sampled_from([b"", b";a=b"]),
    st.sampled_from([b"", b"X-Sum: 1\r\n"]),
    st.booleans(),
)
@example([b"words", b"more"], list(range(200)), b";a=b", b"X-Sum: 1\r\n", True)
def test_any_division_into_reads_gives_the_same_response(
    chunks: list[bytes], places: list[int], extension: bytes, trailer: bytes, interim: bool
) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" * interim + CHUNKED
    answer += b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    answer += b"0\r\n" + trailer + b"\r\n"

    async def receive() -> tuple[Recorded, list[HTTPResponse]]:
        responses, recorded = list[HTTPResponse](), Recorded.of("http://peer/")
        receiving = Transfer(recorded.request, responses.append)
        for piece in cut(answer, places):
            assert not responses
            receiving.data_received(piece)
        return recorded, responses

    recorded, responses = asyncio.run(receive())
    assert b"".join(recorded.chunks) == b"".join(chunks)
    assert [(response.code, response.error) for response in responses] == [(200, None)]
    assert recorded.head == ["HTTP/1.1 200\r\n", "Transfer-Encoding: chunked\r\n", "\r\n"]


# A server that sends faster than the response can be processed.


async def test_a_large_read_is_processed_in_slices(http: StreamingClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SLICE_SIZE", 100)
    monkeypatch.setattr(transfer, "SLICE_INTERVAL", 0.01)
    body = bytes(range(250)) * 8
    began = asyncio.get_running_loop().time()
    recorded, response = await streamed(http, OK + b"\r\n" + body)
    assert asyncio.get_running_loop().time() - began > 0.1
    assert response.code == 200 and b"".join(recorded.chunks) == body
    assert max(map(len, recorded.chunks)) <= 100


async def test_a_request_cancelled_between_two_slices_receives_no_more(
    http: StreamingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SLICE_SIZE", 100)
    async with Peer() as peer:
        received = asyncio.Queue[bytes]()
        request = HTTPRequest(peer.url(), streaming_callback=received.put_nowait)
        fetch = http.fetch(request)
        connection = await peer.accept()
        connection.say(OK + b"\r\n" + b"x" * 10_000)
        await received.get()
        http.cancel(request)
        assert fetch.done() and received.empty()
        await connection.left()
        await asyncio.sleep(2 * transfer.SLICE_INTERVAL)
        assert received.empty()
        with pytest.raises(RemoteProtocolError):
            await fetch


@pytest.mark.parametrize(
    ("head", "error"),
    [(b"\r\n", None), (b"Content-Length: 40000\r\n\r\n", None), (b"Content-Length: 40000\r\n\r\n", OSError("reset"))],
)
async def test_bytes_received_before_the_connection_ended_are_processed(head: bytes, error: OSError | None) -> None:
    responses: list[HTTPResponse] = []
    receiving = Transfer(HTTPRequest("http://peer/"), responses.append)
    receiving.data_received(OK + head + b"x" * 40_000)
    assert not responses
    receiving.connection_lost(error)
    assert [(response.error, response.body) for response in responses] == [(None, b"x" * 40_000)]
