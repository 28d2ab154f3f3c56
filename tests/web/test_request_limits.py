"""Over each limit: the status with a sentence, and no trace of what was refused. Slow and stuck peers cost little."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import ujson

from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import Body, Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program
from tests.raw import Raw, head, raw

HEADER_BYTES, URL_BYTES, REPLY_BYTES, TIMEOUT = 4_096, 1_024, 20_000, 0.5


@pytest.fixture(scope="module")
def tight_url(new_database: Callable[[], str], _session_ollama: ScriptedOllama) -> Iterator[str]:
    """A chatterd with small limits on all that a request and a reply may be."""
    settings: dict[str, object] = {
        "max_header_bytes": HEADER_BYTES,
        "max_url_bytes": URL_BYTES,
        "idle_connection_timeout": TIMEOUT,
        "body_timeout": TIMEOUT,
        "max_messages": 3,
        "max_json_depth": 6,
        "max_reply_bytes": REPLY_BYTES,
        "max_viewers": 2,
        "max_prompt_characters": 200,
    }
    with Program(
        database_url=new_database(), ollama_host=_session_ollama.url, embedded_model=False, drain_timeout=1, **settings
    ) as program:
        yield program.url
        assert program.alarms([]) == []


@pytest.fixture
def tight(tight_url: str, ollama: ScriptedOllama) -> Iterator[Client]:
    client = Client(tight_url)
    with client.http:
        yield client


def url_of(client: Client) -> str:
    return str(client.http.base_url)


def rejected(connection: Raw, status: int) -> str:
    """Read a JSON error after which the connection is closed; return its sentence."""
    answer = connection.answer()
    assert answer.status == status, answer
    assert answer.headers["connection"] == "close"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"]
    sentence = answer.error
    assert connection.rest() == b""
    return sentence


def closed_by_server(connection: Raw, request_bytes: bytes) -> bool:
    """Send something that is no acceptable HTTP head; return whether the connection is closed, possibly after Tornado's
    own 400."""
    try:
        connection.send(request_bytes)
        return connection.rest() in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")
    except (ConnectionResetError, BrokenPipeError):
        return True


# Requests that are too large, or not HTTP.


MEGABYTE = b"x" * 1_000_000


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("/healthz", "X-Request-ID: a", "Cookie: " + "x" * HEADER_BYTES, method="GET"),
        head("/healthz", "X-Request-ID: a")[:-2] + b"Cookie: " + MEGABYTE,
        head("/healthz", "X-Request-ID: a", "Cookie: " + "x" * HEADER_BYTES) + MEGABYTE,
        b"GET /" + MEGABYTE,
    ],
    ids=["large", "endless", "large and a body", "endless URL"],
)
def test_headers_beyond_the_limit_close_the_connection(tight: Client, request_bytes: bytes) -> None:
    with raw(url_of(tight)) as connection:
        assert closed_by_server(connection, request_bytes)
    assert tight.http.get("/healthz").status_code == 200


def test_a_url_beyond_the_limit_is_414_and_the_connection_stays_usable(tight: Client) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(head("/llmchat?appID=" + "x" * URL_BYTES, method="GET"))
        answer = connection.answer()
        assert answer.status == 414
        assert str(URL_BYTES) in answer.error
        connection.send(head("/healthz", method="GET"))
        assert connection.answer().status == 200


def test_headers_and_a_url_of_just_the_limit_are_taken(tight: Client) -> None:
    path = "/llmchat?appID=".ljust(URL_BYTES, "x")
    bare = head(path, "Cookie: ", method="GET")
    with raw(url_of(tight)) as connection:
        connection.send(head(path, "Cookie: " + "x" * (HEADER_BYTES - len(bare)), method="GET"))
        assert connection.answer().status == 422  # an appID too long: it got as far as that
        connection.send(head("/healthz", *["A: b"] * 197, method="GET"))
        assert connection.answer().status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
        head("/llmchat", "Content-Length: abc"),
        head("/llmchat", "Content-Length: -1"),
        head("/llmchat", "Content-Length: 5", "Content-Length: 6") + b"123456",
        head("/llmchat", "Content-Length: 2", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("/llmchat", "Transfer-Encoding: gzip"),
        head("/llmchat", "Transfer-Encoding: chunked") + b"xyz\r\n",
        head("/llmchat", "Transfer-Encoding: chunked") + b"-1\r\n",
        head("/llmchat", "Transfer-Encoding: chunked") + b"3\r\nabcd\r\n",
        head("/llmchat", "Transfer-Encoding: chunked") + b"0\r\nTrailer: x\r\n\r\n",
        head("/llmchat", "Host: a b") + MEGABYTE,
    ],
    ids=repr,
)
def test_what_is_not_http_closes_the_connection(tight: Client, request_bytes: bytes) -> None:
    with raw(url_of(tight)) as connection:
        assert closed_by_server(connection, request_bytes)
    assert tight.http.get("/healthz").status_code == 200


def test_an_empty_line_before_a_request_does_not_count(tight: Client) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(b"\r\n" + head("/healthz", method="GET"))
        assert connection.answer().status == 200


def test_a_request_in_single_bytes_is_answered(client: Client) -> None:
    body = ujson.dumps(client.body("hi")).encode()
    with raw(url_of(client)) as connection:
        for byte in head("/llmchat", f"Content-Length: {len(body)}") + body:
            connection.send(bytes([byte]))
        assert connection.answer().status == 200


# Too slow.


@pytest.mark.parametrize("before", [b"", head("/healthz", method="GET")])
def test_a_head_that_does_not_arrive_in_time_closes_the_connection(tight: Client, before: bytes) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(before + head("/healthz")[:-2])
        if before:
            assert connection.answer().status == 200
        assert connection.rest() == b""


def test_a_head_that_drips_closes_the_connection(tight: Client) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(b"GET / HTTP/1.1\r\n")
        connection.drip(b"A: b\r\n")
        assert connection.rest() == b""


@pytest.mark.parametrize("sent", [b"", b'{"appID":'])
def test_a_body_that_does_not_come_is_408(tight: Client, sent: bytes) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(head("/llmchat", "Content-Length: 1000") + sent)
        assert "request's body" in rejected(connection, 408)
    assert tight.messages() == []


def test_a_body_that_drips_after_most_of_it_came_is_408(tight: Client) -> None:
    with raw(url_of(tight)) as connection:
        connection.send(head("/llmchat", "Content-Length: 1000000") + b" " * 900_000)
        connection.drip(b" ")
        assert "too slowly" in rejected(connection, 408)


@pytest.mark.parametrize("piece", [b" ", b"1\r\n \r\n"])
def test_a_body_that_drips_is_408(tight: Client, piece: bytes) -> None:
    chunked = len(piece) > 1
    with raw(url_of(tight)) as connection:
        connection.send(head("/llmchat", "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000"))
        connection.drip(piece)
        assert "body" in rejected(connection, 408)


def test_a_connection_that_asks_nothing_is_closed_without_a_word(tight: Client) -> None:
    with raw(url_of(tight)) as connection:
        assert connection.rest() == b""
    with raw(url_of(tight)) as connection:
        connection.send(head("/healthz", method="GET"))
        assert connection.answer().status == 200
        assert connection.rest() == b""


def test_a_connection_whose_answer_takes_long_is_kept(tight: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    with tight.prompt("hi") as stream, raw(url_of(tight)) as silent:
        stream.next()
        assert silent.rest() == b""  # a timeout later
        gate.open()
        assert len(stream.rest()) == 1


# Prompts and replies that are too large.


def test_too_many_messages_in_a_prompt_are_422(tight: Client) -> None:
    answer = tight.http.post("/llmchat", json=tight.body("1", "2", "3", "4"))
    assert answer.status_code == 422
    assert "messages has 4" in answer.json()["error"]
    assert tight.messages() == []
    assert tight.ask("1", "2", "3")[-1].json["done"] is True


@pytest.mark.parametrize("wide", ["[],", "{},", '"a",', "1,"])
def test_json_of_too_many_values_is_400_before_they_are_made(tight: Client, wide: str) -> None:
    body = ujson.dumps(tight.body("hi"))[:-1] + f', "options": [{wide * 600_000}0]}}'
    json = {"Content-Type": "application/json"}
    for path in ("/llmchat", "/llmprompt"):
        answer = tight.http.post(path, content=body, headers=json)
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "The body has too many values. Send it in parts."},
        )


def test_commas_and_brackets_in_a_text_are_not_values(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Lines(line("ok"), last_line()))
    assert client.ask('[{,"\\' * 200_000)[-1].json["done"]


@pytest.mark.parametrize("deep", ["[" * 6 + "]" * 6, "[" * 5000 + "]" * 5000, '{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_400(tight: Client, deep: str) -> None:
    body = ujson.dumps(tight.body("hi"))[:-1] + f', "options": {deep}}}'
    answer = tight.http.post("/llmchat", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "too deeply" in answer.json()["error"]
    assert tight.ask("hi", format=[[[[[]]]], [], [], [], []])[-1].json["done"] is True


@pytest.mark.parametrize("path", ["/llmchat", "/llmprompt"])
def test_a_prompt_with_too_much_text_is_413_and_images_do_not_count(tight: Client, path: str) -> None:
    message = {"role": "user", "content": "é" * 60, "images": ["a" * 5000]}
    body = {"appID": "a" * 10, "model": "fake", "prompt": "é" * 60, "images": ["a" * 5000], "messages": [message]}
    answer = tight.http.post(path, json=body | {"system": "s" * 60})
    assert answer.status_code == 413
    assert "200" in answer.json()["error"]
    assert tight.http.post(path, json=body, headers={"Prefer": "respond-async"}).status_code in (200, 202)


@pytest.mark.parametrize("long", [line("x" * 900), b"", b"x" * 10_000])
def test_a_reply_that_is_too_long_ends_honestly_and_what_was_said_is_kept(
    tight: Client, ollama: ScriptedOllama, long: bytes
) -> None:
    ollama.script(Head(), Lines(line("said")), *[Body(long + b"\n" * 2000)] * 1000, Gate())
    *_, last = tight.ask("hi")
    assert (last.name, last.json) == (
        "error",
        {"error": f"The reply is longer than {REPLY_BYTES} bytes, and ends here."},
    )
    ollama.arrival(0).wait().closed.wait()
    assert tight.messages()[1][1].startswith("said")
    assert tight.history()["messages"][1]["status"] == "truncated"


# Too many viewers.


def test_one_viewer_too_many_is_503_and_its_prompt_is_not_recorded(tight: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    other = Client(url_of(tight))
    with other.http, tight.prompt("hi") as stream:
        stream.next()
        path = stream.response.headers["Content-Location"]
        with tight.follow(path) as second:
            second.next()
            for answer in (other.http.get(path), other.http.post("/llmchat", json=other.body("me too"))):
                assert answer.status_code == 503
                assert int(answer.headers["Retry-After"]) > 0
                assert "streaming to as many" in answer.json()["error"]
            assert other.messages() == []
            other.begin("without watching")
            gate.open()
            second.rest()
        stream.rest()
        assert len(other.view(path)) == 2


# Too many requests, too many replies.


@pytest.fixture
def counting(start_chatterd: Callable[..., Program], database_url: str) -> Callable[..., Client]:
    def start(**settings: object) -> Client:
        return Client(start_chatterd(database_url=database_url, **settings).url)

    return start


def too_many(answer: httpx.Response) -> str:
    assert answer.status_code == 429, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    return str(answer.json()["error"])


def test_requests_beyond_a_tenants_rate_are_429_and_pages_and_probes_are_not_counted(
    counting: Callable[..., Client],
) -> None:
    client = counting(requests_per_minute=3)
    with client.http:
        for path in ["/healthz", "/readyz", "/metrics", "/", "/status", "/docs", "/static/chat/chat.js"] * 2:
            assert client.http.get(path).status_code == 200
        client.ask("hi")
        client.history()
        assert client.http.get("/models").status_code == 200
        for path in ("/models", f"/llmchat?appID={client.appid}", "/nope"):
            assert "3 requests per minute" in too_many(client.http.get(path))
        assert "minute" in too_many(client.http.post("/llmchat", json=client.body("x" * 10_000_000)))
        with raw(url_of(client)) as connection:  # that sends all before it reads
            connection.send(head("/llmprompt", "Content-Length: 10000000") + MEGABYTE * 10)
            assert connection.answer().status == 429
        assert client.http.get("/healthz").status_code == 200


def test_requests_are_counted_for_the_address_that_a_trusted_proxy_names(counting: Callable[..., Client]) -> None:
    client = counting(address_requests_per_minute=1, trusted_proxies="127.0.0.0/8")
    with client.http:
        for address, status in [
            ("192.0.2.1", 200),
            ("192.0.2.1", 429),
            ("10.9.9.9, 192.0.2.1", 429),
            ("192.0.2.2", 200),
            ("2001:db8::1", 200),
            ("2001:db8::2", 429),
        ]:
            assert client.http.get("/models", headers={"X-Forwarded-For": address}).status_code == status


def test_nobody_else_names_an_address(counting: Callable[..., Client]) -> None:
    client = counting(address_requests_per_minute=1, trusted_proxies="192.0.2.1")
    with client.http:
        for status, number in ((200, 1), (429, 2), (429, 3)):
            answer = client.http.get("/models", headers={"X-Forwarded-For": f"192.0.2.{number}"})
            assert answer.status_code == status


@pytest.mark.parametrize("setting", ["max_replies_per_tenant", "max_replies_per_address"])
def test_one_reply_too_many_is_429_until_another_has_ended(
    counting: Callable[..., Client], ollama: ScriptedOllama, setting: str
) -> None:
    gate = Gate()
    ollama.script(Head(), gate, Lines(last_line("a")))
    client = counting(**{setting: 1})
    other = Client(url_of(client))
    key = {"Idempotency-Key": "k"}
    with client.http, other.http:
        path = client.begin("hi", headers=key)
        assert "1 replies in progress" in too_many(other.http.post("/llmchat", json=other.body("me too")))
        assert other.messages() == []
        too_many(other.http.post("/llmprompt", json={"model": "fake", "prompt": "me too"}))
        too_many(client.http.post("/llmchat", json=client.body("hi"), headers={"Idempotency-Key": "other"}))
        assert client.begin("hi", headers=key) == path  # the same prompt again is no second reply
        gate.open()
        assert len(client.view(path)) == 1
        assert other.ask("me too")[-1].json["done"] is True
        assert other.http.post("/llmprompt", json={"model": "fake", "prompt": "hi"}).status_code == 200


def test_a_prompt_sent_again_is_answered_where_the_server_has_no_room_for_another(
    counting: Callable[..., Client], ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.script(Head(), gate, Lines(last_line("a")))
    client = counting(max_replies=1)
    with client.http:
        path = client.begin("hi", headers={"Idempotency-Key": "k"})
        assert client.begin("hi", headers={"Idempotency-Key": "k"}) == path
        assert client.http.post("/llmchat", json=client.body("hi")).status_code == 503
        gate.open()
        client.view(path)


# Many at once that want to hold the server up.


MANY = 500


def resident(program: Program) -> float:
    """Megabytes of memory that a program holds."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def connect(url: str, open_ones: contextlib.ExitStack) -> socket.socket:
    """A connection whose client's side takes as little as can be."""
    address = httpx.URL(url)
    connection = open_ones.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.settimeout(10)
    connection.connect((address.host, address.port))
    return connection


def slowest_health(client: Client, probes: int = 40) -> list[float]:
    """Seconds that each of some probes took, in order of size."""
    took = []
    for _ in range(probes):
        began = time.perf_counter()
        assert client.http.get("/healthz").status_code == 200
        took.append(time.perf_counter() - began)
    return sorted(took)


@pytest.mark.extended
def test_500_slow_heads_and_500_stuck_viewers_neither_hold_the_server_up_nor_fill_its_memory(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama
) -> None:
    program = start_chatterd(database_url=database_url, idle_connection_timeout=4, client_write_timeout=4)
    client = Client(program.url)
    gate = Gate()
    with client.http, contextlib.ExitStack() as open_ones:
        client.ask("warm up")
        slowest_health(client)
        ollama.script(Head(), gate, Lines(*[line("x" * 4_000)] * 1_000, last_line()))
        before = resident(program)
        path = client.begin("hi")
        drips = [connect(program.url, open_ones) for _ in range(MANY)]
        for drip in drips:
            drip.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        stuck = [connect(program.url, open_ones) for _ in range(MANY)]
        for viewer in stuck:
            viewer.sendall(head(path, method="GET"))
        for viewer in stuck:
            assert viewer.recv(12) == b"HTTP/1.1 200"
        gate.open()
        took = []
        for _ in range(5):
            for drip in drips:
                with contextlib.suppress(ConnectionError):  # on a slow machine some are refused by now
                    drip.sendall(b"A: b\r\n")
            took += slowest_health(client)
        grown = resident(program) - before
        print(f"\n/healthz: median {1000 * sorted(took)[len(took) // 2]:.1f} ms, most {1000 * max(took):.1f} ms")
        print(f"memory: {before:.0f} MB, {grown:+.0f} MB")
        assert sorted(took)[len(took) // 2] < 0.1
        assert grown < 100
        for drip in drips:
            assert drip.recv(12) == b""
        program.wait_log('abort_reason="client too slow"')
        open_ones.close()
        other = Client(program.url)
        with other.http:
            assert other.ask("still there?")[-1].json["done"] is True
            assert len(other.view(path)) == 1_001


def test_bodies_that_break_off_are_not_kept(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama
) -> None:
    program = start_chatterd(database_url=database_url)
    with Client(program.url) as client:
        client.ask("warm up")
        before = resident(program)
        for _ in range(20):
            with raw(program.url) as connection:
                connection.send(head("/llmchat", "Content-Length: 30000000") + b" " * 20_000_000)
        assert client.http.get("/healthz").status_code == 200
        assert resident(program) - before < 150


def test_a_body_for_which_there_is_no_room_beside_the_others_is_503_until_one_of_them_is_read(
    start_chatterd: Callable[..., Program], session_database_url: str
) -> None:
    program = start_chatterd(database_url=session_database_url, max_total_body_bytes=100_000)
    with Client(program.url) as client, raw(program.url) as first, raw(program.url) as leaving:
        body = ujson.dumps(client.body("x" * 60_000)).encode()
        large = client.body("y" * 60_000)
        for connection in (first, leaving):
            connection.send(head("/llmchat", f"Content-Length: {len(body)}"))
        first.send(body[:-1])
        first.wait_until_read()
        answer = client.http.post("/llmchat", json=large)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "large requests" in answer.json()["error"]
        assert client.http.post("/llmchat", json=[]).status_code == 400, "a small one finds room"
        first.send(body[-1:])
        assert first.answer().status == 200
        leaving.send(body[:-1])
        leaving.wait_until_read()
        assert client.http.post("/llmchat", json=large).status_code == 503
        leaving.hang_up()
        eventually("who left gave it back", lambda: client.http.post("/llmchat", json=large).status_code == 200)
