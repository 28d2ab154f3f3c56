"""Requests as raw bytes: bodies too large, too slow or malformed, request ids, HTTP/1.0, keep-alive and pipelining."""

from collections.abc import Callable, Iterator

import pytest
import ujson

from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program
from tests.raw import Raw, head, raw

LIMIT = 10_000
FAR_TOO_LARGE = (2**31, 2**63, 10**30)


@pytest.fixture(scope="module")
def small_url(new_database: Callable[[], str], _session_ollama: ScriptedOllama) -> Iterator[str]:
    """A server with a small limit of body size and a short body timeout."""
    settings: dict[str, object] = {
        "max_body_bytes": LIMIT,
        "body_timeout": 1,
        "drain_timeout": 1,
        "embedded_model": False,
    }
    with Program(database_url=new_database(), ollama_host=_session_ollama.url, **settings) as program:
        yield program.url
        assert program.alarms([]) == []


@pytest.fixture
def small(small_url: str, ollama: ScriptedOllama) -> Iterator[Client]:
    client = Client(small_url)
    with client.http:
        yield client


def url_of(client: Client) -> str:
    return str(client.http.base_url)


def complete(client: Client, *more: str, text: str = "hi", version: str = "1.1") -> bytes:
    """A complete request for a reply."""
    body = ujson.dumps(client.body(text)).encode()
    return head("/llmchat", f"Content-Length: {len(body)}", *more, version=version) + body


# Too large.


@pytest.mark.parametrize("path", ["/llmchat", "/llmprompt"])
@pytest.mark.parametrize(
    "fields",
    [[f"Content-Length: {LIMIT + 1}", "Expect: 100-continue"], *([f"Content-Length: {n}"] for n in FAR_TOO_LARGE)],
)
def test_a_body_announced_as_too_large_is_413_before_it_is_sent(small: Client, path: str, fields: list[str]) -> None:
    with raw(url_of(small)) as connection:
        connection.send(head(path, *fields))
        response = connection.answer()
    assert response.status == 413
    assert str(LIMIT) in response.error


@pytest.mark.parametrize("path", ["/llmchat", "/llmprompt"])
def test_the_413_for_an_announced_body_that_is_sent_can_be_read(small: Client, path: str) -> None:
    with raw(url_of(small)) as connection:
        connection.send(head(path, f"Content-Length: {LIMIT + 1}") + b"x" * (LIMIT + 1))
        assert str(LIMIT) in connection.answer().error


def test_a_client_that_sends_its_whole_body_before_it_reads_can_read_the_413(small: Client) -> None:
    with raw(url_of(small)) as connection:
        connection.send(head("/llmchat", "Content-Length: 10000000") + b"x" * 10_000_000)
        assert str(LIMIT) in connection.answer().error


@pytest.mark.parametrize("path", ["/llmchat", "/llmprompt"])
def test_a_chunked_body_beyond_the_limit_is_413(small: Client, path: str) -> None:
    with raw(url_of(small)) as connection:
        connection.send(head(path, "Transfer-Encoding: chunked"))
        for _ in range(100):
            connection.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        connection.send(b"0\r\n\r\n")
        response = connection.answer()
        assert response.status == 413
        assert str(LIMIT) in response.error
    assert small.ask("hi")[-1].json["done"] is True


def test_the_connection_of_an_endless_chunked_body_is_closed(small: Client) -> None:
    def send_endless_body(connection: Raw) -> None:
        for _ in range(1_000_000):
            connection.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")

    with raw(url_of(small)) as connection:
        connection.send(head("/llmchat", "Transfer-Encoding: chunked"))
        with pytest.raises(ConnectionError):
            send_endless_body(connection)
    assert small.ask("hi")[-1].json["done"] is True


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_exactly_the_limit_is_accepted(small: Client, chunked: bool) -> None:
    body = ujson.dumps(small.body("hi")).encode().ljust(LIMIT)
    with raw(url_of(small)) as connection:
        if chunked:
            connection.send(head("/llmchat", "Transfer-Encoding: chunked"))
            for start in range(0, LIMIT, 1000):
                connection.send(b"3e8\r\n" + body[start : start + 1000] + b"\r\n")
            connection.send(b"0\r\n\r\n")
        else:
            connection.send(head("/llmchat", f"Content-Length: {LIMIT}") + body)
        assert connection.answer().status == 200
    assert small.messages()[0] == ("user", "hi")


def test_a_body_of_20_mb_is_accepted_by_default(client: Client) -> None:
    client.ask("x" * 20_000_000, truncate=True)  # beyond the model's window
    [message] = client.history(before=client.history()["before"])["messages"]
    assert message["content"] == "x" * 20_000_000


def test_the_limit_applies_to_bodies_of_get_requests(small: Client) -> None:
    with raw(url_of(small)) as connection:
        for size, status in ((LIMIT, 200), (LIMIT + 1, 413), (LIMIT, 200)):
            connection.send(head("/healthz", f"Content-Length: {size}", method="GET") + b"x" * size)
            assert connection.answer().status == status


def test_expect_100_continue_is_confirmed(small: Client) -> None:
    body = ujson.dumps(small.body("hi")).encode()
    with raw(url_of(small)) as connection:
        connection.send(head("/llmchat", f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert connection.answer().status == 100
        connection.send(body)
        assert connection.answer().status == 200


# Too slow.


@pytest.mark.parametrize("sent", [b"", b'{"appID":'])
def test_a_body_that_does_not_arrive_in_time_closes_the_connection(small: Client, sent: bytes) -> None:
    with raw(url_of(small)) as connection:
        connection.send(head("/llmchat", "Content-Length: 100") + sent)
        response = connection.rest()
        assert response == b"" or response.startswith(b"HTTP/1.1 4")
    assert small.http.get("/healthz").status_code == 200


def test_a_prompt_that_is_not_complete_is_not_stored(small: Client) -> None:
    request = complete(small)
    with raw(url_of(small)) as connection:
        connection.send(request[:-1])
    assert small.messages() == []


# Malformed.


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: abc"],
        ["Content-Length: -1"],
        ["Content-Length: 1.5"],
        ["Content-Length: +5"],
        ["Content-Length: 1_0"],
        ["Content-Length: ٣"],
        ["Content-Length:"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip"],
    ],
    ids=str,
)
def test_an_ambiguous_body_length_is_a_client_error(client: Client, fields: list[str]) -> None:
    with raw(url_of(client)) as connection:
        connection.send(head("/llmchat", *fields) + b"{}")
        response = connection.rest()
    assert response == b"" or response.split()[1] in (b"400", b"411", b"413", b"415", b"501"), response
    assert client.http.get("/healthz").status_code == 200


def test_a_repeated_content_length_is_accepted_or_400(client: Client) -> None:
    request = complete(client).replace(b"Host: x\r\n", b"")
    length = next(field for field in request.split(b"\r\n") if field.startswith(b"Content-Length"))
    with raw(url_of(client)) as connection:
        connection.send(request.replace(length, length + b"\r\nHost: x\r\n" + length))
        assert connection.answer().status in (200, 400)


@pytest.mark.expects_log("Malformed HTTP", "not a HTTP")
@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 50]
)
def test_malformed_http_does_not_disturb_other_connections(client: Client, garbage: bytes) -> None:
    with raw(url_of(client)) as connection:
        connection.send(garbage)
    assert client.http.get("/healthz").status_code == 200


# Request ids.


@pytest.mark.parametrize("given", ["a", "abc-1", "x" * 128, "a.b:c/d+e=f_g", "0"])
def test_a_valid_request_id_is_returned(client: Client, given: str) -> None:
    for path in ("/healthz", "/nope", "/llmchat", "/"):
        assert client.http.get(path, headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "é", "a;b", "<script>", "a\tb"])
def test_a_missing_or_invalid_request_id_is_replaced(client: Client, given: str | None) -> None:
    headers = {} if given is None else {b"X-Request-ID": given.encode()}
    generated = [client.http.get("/healthz", headers=headers).headers["X-Request-ID"] for _ in range(2)]
    assert generated[0] != generated[1] and given not in generated
    assert all(len(one) == 32 for one in generated)


def test_the_log_contains_the_request_id(chatterd: Program, client: Client) -> None:
    client.http.get("/healthz", headers={"X-Request-ID": "unique-id"})
    chatterd.wait_log(r"request=unique-id method=GET path=/healthz status=200 ")


def test_the_log_contains_neither_queries_nor_bodies(chatterd: Program, client: Client) -> None:
    client.ask("top secret")
    client.http.get("/llmchat", params={"appID": client.appid}, headers={"X-Request-ID": "last-request"})
    chatterd.wait_log("last-request")
    assert "top secret" not in chatterd.log and client.appid not in chatterd.log


# Connections.


def test_an_http_1_0_stream_ends_with_the_connection(client: Client) -> None:
    with raw(url_of(client)) as connection:
        connection.send(complete(client, version="1.0"))
        response, _, body = connection.rest().partition(b"\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 200 ") and b"chunked" not in response.lower()
    assert body.startswith(b"id: 0\ndata: {") and body.endswith(b"\n\n")
    assert [one.split(b"\n")[0] for one in body.split(b"\n\n")[:-1]] == [b"id: %d" % number for number in range(6)]


def test_a_connection_is_reused_after_a_stream(client: Client) -> None:
    with raw(url_of(client)) as connection:
        for number in range(3):
            connection.send(complete(client, text=f"m{number}"))
            response = connection.answer()
            assert (response.status, response.body.count(b"\n\n")) == (200, 6)
        connection.send(head("/healthz", method="GET"))
        assert connection.answer().status == 200
    assert len(client.messages()) == 6


def test_pipelined_requests_get_their_responses_in_order(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    pipelined = [head("/healthz", "X-Request-ID: 2", method="GET"), complete(client, "X-Request-ID: 3", text="again")]
    with raw(url_of(client)) as connection:
        connection.send(complete(client, "X-Request-ID: 1") + b"".join(pipelined) + head("/nope", "X-Request-ID: 4"))
        gate.reached.wait()
        gate.open()
        responses = [connection.answer() for _ in range(4)]
    assert [response.headers["x-request-id"] for response in responses] == ["1", "2", "3", "4"]
    assert [response.status for response in responses] == [200, 200, 200, 404]
    assert [response.body.count(b"\n\n") for response in responses] == [2, 0, 6, 0]


def test_a_connection_is_reused_after_an_error(client: Client) -> None:
    with raw(url_of(client)) as connection:
        connection.send(head("/llmchat", "Content-Length: 7") + b"garbage")
        assert connection.answer().status == 400
        connection.send(complete(client))
        assert connection.answer().status == 200


def test_a_reply_is_generated_if_its_client_disconnects_before_reading(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), gate, Lines(last_line("a")))
    with raw(url_of(client)) as connection:
        connection.send(complete(client))
        gate.reached.wait()
    with client.follow(f"/llmchat/{client.history()['reply']['id']}") as stream:
        gate.open()
        assert len(stream.rest()) == 1
    assert client.messages() == [("user", "hi"), ("assistant", "a")]


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("/nope", method="GET"),
        head("/nope", "Content-Length: 2") + b"{}",
        head("/llmchat", method="GET"),
        head("/llmchat", "Content-Length: 2", method="PUT") + b"{}",
        head("/llmchat", method="TRACE"),
        head("/llmchat/%ff", method="GET"),
        head("/llmchat", f"Content-Length: {LIMIT + 1}") + b"x" * (LIMIT + 1),
        head("/llmchat", f"Content-Length: {2**40}"),
        head("/llmchat/0", method="DELETE"),
        head("/static/nope", method="GET"),
        head("/healthz", method="GET"),
    ],
    ids=[
        "unknown",
        "unknown with a body",
        "missing argument",
        "wrong method",
        "method that no route implements",
        "path that is not UTF-8",
        "too large",
        "far too large",
        "no reply",
        "no file",
        "successful",
    ],
)
def test_a_response_has_connection_close_unless_the_connection_is_reusable(small: Client, request_bytes: bytes) -> None:
    with raw(url_of(small)) as connection:
        connection.send(request_bytes)
        response = connection.answer()
        if response.headers.get("connection") != "close":
            connection.send(head("/healthz", method="GET"))
            assert connection.answer().status == 200
