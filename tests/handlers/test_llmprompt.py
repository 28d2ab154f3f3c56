"""POST /llmprompt: Ollama's /api/generate passed through as it arrives; nothing is stored."""

import socket
import struct
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest

from tests.client import Client
from tests.database import rows
from tests.fakes.ollama import (
    Body,
    Close,
    End,
    Gate,
    Head,
    Lines,
    Pause,
    Reset,
    ScriptedOllama,
    Send,
    Step,
    Whole,
    failure,
    ndjson,
)
from tests.program import Program
from tests.raw import head, raw

PROMPT = {"model": "fake", "prompt": "hi"}


def test_the_response_is_ollamas_byte_for_byte(client: Client, ollama: ScriptedOllama) -> None:
    body = b'{"response":"a"}\r\n\n \xff\x00not json\n{"response":"\xe2\x80\xa8"}\n{"cut'
    content_type = "application/x-ndjson; charset=odd"
    ollama.script(Head(headers={"Content-Type": content_type}), *[Body(body[at : at + 5]) for at in range(0, 60, 5)])
    response = client.http.post("/llmprompt", json=PROMPT)
    assert (response.status_code, response.content) == (200, body[:60])
    assert response.headers["Content-Type"] == content_type
    assert response.headers["Cache-Control"] == "no-store, no-transform"
    assert response.headers["X-Accel-Buffering"] == "no"


def test_the_body_reaches_ollama_unchanged(client: Client, ollama: ScriptedOllama) -> None:
    body = b' {"model":"fake",\n "prompt":"\xc3\xa9", "x":[1.0,12345678901234567890], "appID": 1, "stream" :false}'
    response = client.http.post("/llmprompt", content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert response.json()["response"] == "w0 w1 w2 w3 w4 "
    [request] = ollama.requests
    assert (request.path, request.body) == ("/api/generate", body)


def test_a_window_that_is_set_for_all_requests_is_sent_with_those_that_have_none(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama
) -> None:
    bodies = {
        b' {"model":"fake","x":[1.0, 12345678901234567890]}': b'{"model":"fake","x":[1.0, 12345678901234567890],'
        b'"options":{"num_ctx":2048}}',
        b'{"model":"fake","options":{"seed": 1.0}}': b'{"model":"fake","options":{"seed":1.0,"num_ctx":2048}}',
        b'{"options":{"num_ctx": 99}, "model" :"fake"}': b'{"options":{"num_ctx": 99}, "model" :"fake"}',
        b'{"model":"fake","options":[ ]}': b'{"model":"fake","options":[ ]}',
        b'{"model":"fake"': b'{"model":"fake"',
        b"[1, 2]": b"[1, 2]",
        b"": b"",
    }
    with Client(start_chatterd(num_ctx=2048).url) as client:
        for body, sent in bodies.items():
            ollama.script(Whole(200, b"{}"))
            response = client.http.post("/llmprompt", content=body, headers={"Content-Type": "application/json"})
            assert response.status_code == 200
            assert ollama.requests[-1].body == sent
            assert int(ollama.requests[-1].headers["content-length"]) == len(sent)


def test_an_empty_body_reaches_ollama(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(failure(400, "missing request body"))
    response = client.http.post("/llmprompt", headers={"Content-Type": "application/json"}, timeout=10)
    assert (response.status_code, response.json()) == (400, {"error": "missing request body"})
    [request] = ollama.requests
    assert (request.headers["content-length"], request.body) == ("0", b"")


def test_each_chunk_is_sent_before_the_next_arrives(client: Client, ollama: ScriptedOllama) -> None:
    gates = [Gate(), Gate()]
    chunks = [b'{"response":"a"}\n', b'{"respon', b'se":"b"}\n']
    ollama.script(Head(), Body(chunks[0]), gates[0], Body(chunks[1]), gates[1], Body(chunks[2]))
    with client.http.stream("POST", "/llmprompt", json=PROMPT) as response:
        body = response.iter_raw()
        received = [next(body)]
        for gate in gates:
            gate.open()
            received.append(next(body))
        assert list(body) == []
    assert received == chunks


def test_a_long_response_is_complete(client: Client, ollama: ScriptedOllama) -> None:
    piece = bytes(range(256)) * 1024
    ollama.script(Head(), *[Body(piece)] * 24)
    assert client.http.post("/llmprompt", json=PROMPT).content == piece * 24


@pytest.mark.parametrize(
    "step",
    [
        failure(404, "model 'x' not found"),
        failure(400, "bad"),
        Whole(403, b""),
        Whole(502, b"<html>", "text/html"),
        Whole(200, b""),
        Whole(500, b"\xff", "application/octet-stream"),
    ],
)
def test_ollamas_status_body_and_content_type_are_returned(client: Client, ollama: ScriptedOllama, step: Whole) -> None:
    ollama.script(step)
    response = client.http.post("/llmprompt", json=PROMPT)
    assert (response.status_code, response.content) == (step.status, step.body)
    assert response.headers["Content-Type"] == step.content_type


def test_nothing_is_stored(start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str) -> None:
    client = Client(start_chatterd(database_url=database_url).url)
    with client.http:
        assert client.http.post("/llmprompt", json=PROMPT | {"appID": client.appid}).status_code == 200
        ollama.script(failure(404, "no"))
        assert client.http.post("/llmprompt", json=PROMPT | {"appID": client.appid}).status_code == 404
    for table in ("chatts", "replies"):
        assert rows(database_url, f"SELECT FROM {table}") == []


def test_without_ollama_the_response_is_503_until_it_is_reachable_again(client: Client, ollama: ScriptedOllama) -> None:
    ollama.stop_listening()
    ollama.cut_connections()
    response = client.http.post("/llmprompt", json=PROMPT)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "Ollama" in response.json()["error"]
    ollama.listen_again()
    assert client.http.post("/llmprompt", json=PROMPT).status_code == 200


@pytest.mark.parametrize("ending", [Close(), Reset()], ids=["closed", "reset"])
def test_a_connection_closed_before_the_response_is_an_error_in_json(
    client: Client, ollama: ScriptedOllama, ending: Step
) -> None:
    ollama.script(Send(b""), ending)
    response = client.http.post("/llmprompt", json=PROMPT)
    assert response.status_code in (502, 503)
    assert "Ollama" in response.json()["error"]


@pytest.mark.parametrize("ending", [Close(), Reset()], ids=["closed", "reset"])
def test_an_incomplete_response_does_not_look_complete(client: Client, ollama: ScriptedOllama, ending: Step) -> None:
    gate = Gate()
    ollama.script(Head(), Body(b"half"), gate, ending)
    with client.http.stream("POST", "/llmprompt", json=PROMPT) as response:
        chunks = response.iter_raw()
        assert next(chunks) == b"half"
        gate.open()
        with pytest.raises(httpx.RemoteProtocolError):
            list(chunks)
    assert client.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("before", [(), (Head(),), (Head(), Body(b"a"))], ids=["head", "body", "end"])
def test_a_disconnecting_client_closes_the_connection_to_ollama(
    client: Client, ollama: ScriptedOllama, before: tuple[Step, ...]
) -> None:
    gate = Gate()
    ollama.script(*before, gate)
    host = urlsplit(str(client.http.base_url))
    with socket.create_connection((str(host.hostname), int(host.port or 0)), timeout=10) as connection:
        connection.sendall(
            b"POST /llmprompt HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        )
        gate.reached.wait()
        assert not ollama.generations[0].closed.happened
    ollama.arrival(0).wait().closed.wait()


def test_a_disconnecting_client_stops_an_endless_generation(client: Client, ollama: ScriptedOllama) -> None:
    with client.http.stream("POST", "/llmprompt", json=PROMPT | {"options": {"num_predict": -1}}) as response:
        next(response.iter_raw())
    ollama.arrival(0).wait().closed.wait()


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_415(client: Client, ollama: ScriptedOllama, content_type: str) -> None:
    response = client.http.post("/llmprompt", content=b"{}", headers={"Content-Type": content_type})
    assert response.status_code == 415
    assert "application/json" in response.json()["error"]
    assert ollama.requests == []


def test_a_body_beyond_the_limit_is_413(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    client = Client(start_chatterd(database_url=database_url, max_body_bytes=1000).url)
    headers = {"Content-Type": "application/json"}
    with client.http:
        response = client.http.post("/llmprompt", content=b"{" + b" " * 1000, headers=headers)
        assert (response.status_code, list(response.json())) == (413, ["error"])
        assert ollama.requests == []
        assert (
            client.http.post(
                "/llmprompt", content=b'{"model":"fake","prompt":""}'.ljust(1000), headers=headers
            ).status_code
            == 200
        )


def test_a_generation_without_output_does_not_block_other_requests(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(gate, Head(), Lines(b"{}"), End())
    other = Client(str(client.http.base_url))
    with other.http:
        bodies: list[bytes] = []
        waiting = threading.Thread(target=lambda: bodies.append(other.http.post("/llmprompt", json=PROMPT).content))
        waiting.start()
        gate.reached.wait()
        assert client.http.get("/healthz").status_code == 200
        gate.open()
        waiting.join()
    assert bodies == [ndjson(b"{}")]


# How long Ollama may take.


def test_ollamas_silence_before_its_response_is_503_after_the_timeout_of_the_first_line(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, first_line_timeout=0.5)
    ollama.script(Gate())
    with Client(program.url) as client:
        response = client.http.post("/llmprompt", json=PROMPT)
    assert response.status_code == 503
    assert response.json() == {"error": "Ollama sent nothing for 0.5 seconds."}
    ollama.arrival(0).wait().closed.wait()


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"first_line_timeout": 0.5}, (Head(), Gate())),
        ({"ollama_read_timeout": 0.5}, (Head(), Body(b"{}\n"), Gate())),
        ({"reply_timeout": 0.5, "ollama_read_timeout": 0.4}, (Head(), *[Body(b"{}\n"), Pause(0.05)] * 200, Gate())),
    ],
    ids=["nothing after the head", "nothing after a line", "without end"],
)
def test_a_response_is_cut_off_after_the_times_that_limit_a_reply(
    start_chatterd: Callable[..., Program],
    ollama: ScriptedOllama,
    session_database_url: str,
    settings: dict[str, float],
    steps: tuple[Step, ...],
) -> None:
    program = start_chatterd(database_url=session_database_url, **settings)
    ollama.script(*steps)
    with Client(program.url) as client, pytest.raises(httpx.RemoteProtocolError):
        client.http.post("/llmprompt", json=PROMPT)
    program.wait_log('path=/llmprompt .*abort_reason="upstream too slow"')
    ollama.arrival(0).wait().closed.wait()


# A client that leaves, after it has sent more than its request.


@pytest.mark.parametrize("before", [(), (Head(),), (Head(), Body(b"a"))], ids=["head", "body", "end"])
@pytest.mark.parametrize("linger", [None, struct.pack("ii", 1, 0)], ids=["closed", "reset"])
def test_a_client_that_sent_one_more_byte_and_left_is_noticed_while_ollama_is_silent(
    client: Client, ollama: ScriptedOllama, before: tuple[Step, ...], linger: bytes | None
) -> None:
    gate = Gate()
    ollama.script(*before, gate)
    host = urlsplit(str(client.http.base_url))
    with socket.create_connection((str(host.hostname), int(host.port or 0)), timeout=10) as connection:
        if linger:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.sendall(head("/llmprompt", "Content-Length: 2") + b"{}G")
        gate.reached.wait()
    ollama.arrival(0).wait().closed.wait()
    assert client.http.get("/healthz").status_code == 200


def test_a_pipelined_request_is_processed_after_the_response(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(gate, Whole(200, b"{}"))
    with raw(str(client.http.base_url)) as connection:
        connection.send(head("/llmprompt", "Content-Length: 2") + b"{}" + head("/healthz", method="GET"))
        gate.reached.wait()
        gate.open()
        assert [connection.answer().status for _ in range(2)] == [200, 200]
