"""What StreamingClient makes of answers: those that HTTP/1.1 allows, and those that it does not."""

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
class Taken:
    """A request whose callbacks note what they are given."""

    request: HTTPRequest
    head: list[str] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, url: str) -> "Taken":
        taken = cls(HTTPRequest(url, request_timeout=0))
        taken.request.header_callback = taken.head.append
        taken.request.streaming_callback = taken.chunks.append
        return taken


async def streamed(http: StreamingClient, answer: bytes) -> tuple[Taken, HTTPResponse]:
    """Answer with these bytes, close the connection, and let the answer be streamed."""
    async with Peer() as peer:
        taken = Taken.of(peer.url())
        fetch = http.fetch(taken.request, raise_error=False)
        connection = await peer.accept()
        await connection.request()
        connection.say(answer)
        connection.close()
        return taken, await fetch


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
async def test_an_answer_is_handed_over_as_it_is(
    http: StreamingClient, answer: bytes, status: int, body: bytes
) -> None:
    taken, response = await streamed(http, answer)
    assert (response.code, b"".join(taken.chunks)) == (status, body)
    assert taken.head[0] == f"HTTP/1.1 {status}\r\n" and taken.head[-1] == "\r\n"
    assert not any(line.startswith(("X-Early", "X-Sum")) for line in taken.head)
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
async def test_what_is_no_whole_answer_is_broken(http: StreamingClient, answer: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        await streamed(http, answer)


async def test_an_answer_that_only_the_connections_end_could_end_is_broken_by_a_reset(http: StreamingClient) -> None:
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
async def test_what_follows_the_answer_is_not_part_of_it(http: StreamingClient, fields: bytes, more: bytes) -> None:
    taken, response = await streamed(http, OK + fields + b"Content-Length: 5\r\n\r\nwords" + more)
    assert (response.code, taken.chunks, taken.head.count("\r\n")) == (200, [b"words"], 1)


async def test_the_end_is_where_the_answer_says_though_the_connection_stays_open(http: StreamingClient) -> None:
    async with Peer() as peer:
        fetch = http.fetch(peer.url())
        connection = await peer.accept()
        connection.say(CHUNKED + b"5\r\nwords\r\n0\r\n\r\n")
        assert (await fetch).body == b"words"
        await connection.left()


async def test_each_piece_is_handed_over_before_the_next_arrives(http: StreamingClient) -> None:
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
async def test_a_head_without_end_is_broken_off(http: StreamingClient, piece: bytes) -> None:
    async with Peer() as peer:
        fetch = http.fetch(peer.url())
        connection = await peer.accept()
        connection.say((b"" if piece.startswith(b"HTTP") else OK + b"X: ") + piece * (80_000 // len(piece)))
        with pytest.raises(RemoteProtocolError, match="more than 65536 bytes"):
            await fetch
        await connection.left()


async def test_a_body_without_end_is_broken_off_where_it_is_collected(
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
async def test_a_trailer_or_extension_without_end_is_broken_off(
    http: StreamingClient, monkeypatch: pytest.MonkeyPatch, start: bytes, piece: bytes
) -> None:
    async with Peer() as peer:
        fetch = http.fetch(HTTPRequest(peer.url(), streaming_callback=lambda _: None))
        connection = await peer.accept()
        connection.say(CHUNKED + b"5\r\nwords\r\n" + start)
        for _ in range(200_000 // len(piece)):
            connection.say(piece)
        with pytest.raises(RemoteProtocolError, match="more than 65536 bytes"):
            await fetch
        await connection.left()


@pytest.mark.parametrize("head", [CHUNKED, OK + b"\r\n"])
async def test_a_long_answer_is_no_endless_one(
    http: StreamingClient, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    body = (b"%x\r\n%b\r\n" % (90_000, b"x" * 90_000)) * 10 + b"0\r\n\r\n" if head == CHUNKED else b"x" * 900_000
    taken, response = await streamed(http, head + body)
    assert (response.code, sum(map(len, taken.chunks))) == (200, 900_000)


# However TCP cuts it.


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
def test_the_same_bytes_arrive_in_order_however_they_are_cut(
    chunks: list[bytes], places: list[int], extension: bytes, trailer: bytes, interim: bool
) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" * interim + CHUNKED
    answer += b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    answer += b"0\r\n" + trailer + b"\r\n"

    async def take() -> tuple[Taken, list[HTTPResponse]]:
        responses, taken = list[HTTPResponse](), Taken.of("http://peer/")
        transfer = Transfer(taken.request, responses.append)
        for piece in cut(answer, places):
            assert not responses
            transfer.data_received(piece)
        return taken, responses

    taken, responses = asyncio.run(take())
    assert b"".join(taken.chunks) == b"".join(chunks)
    assert [(response.code, response.error) for response in responses] == [(200, None)]
    assert taken.head == ["HTTP/1.1 200\r\n", "Transfer-Encoding: chunked\r\n", "\r\n"]
