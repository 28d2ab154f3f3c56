"""POST /llmchat: the event stream, the stored messages, and the request to Ollama."""

from typing import Any

import pytest
import ujson

from tests.client import Client
from tests.fakes.ollama import Body, Gate, Head, Lines, ScriptedOllama, Whole, last_line, line, ndjson

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def test_every_line_of_ollama_is_one_numbered_event_byte_for_byte(client: Client, ollama: ScriptedOllama) -> None:
    lines = [line("Hel"), line('lo "you"\n'), b'{"model":"fake", "message" : {"content": "\\u00e9 "}}', last_line()]
    ollama.script(Head(), Lines(*lines))
    with client.prompt("hi") as stream:
        raw = b"".join(stream.response.iter_raw())
    assert raw == b"".join(b"id: %d\ndata: %b\n\n" % (number, one) for number, one in enumerate(lines))


def test_the_response_has_the_headers_of_an_event_stream(client: Client) -> None:
    with client.prompt("hi", headers={"X-Request-ID": "abc-1"}) as stream:
        headers = stream.response.headers
        stream.rest()
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-store, no-transform"
    assert headers["X-Accel-Buffering"] == "no"
    assert headers["X-Request-ID"] == "abc-1"
    assert headers["Content-Location"].startswith("/llmchat/")


def test_an_event_is_sent_before_the_next_line_arrives(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("first")), gate, Lines(last_line()))
    with client.prompt("hi") as stream:
        event = stream.next()
        assert event is not None and event.json["message"]["content"] == "first"
        gate.open()
        assert stream.rest()[-1].json["done"] is True


def test_prompt_and_reply_are_stored_unchanged(client: Client, ollama: ScriptedOllama) -> None:
    prompt = "  def f():\n\treturn 'é'  \n\n"
    ollama.script(Head(), Lines(line("  a\n\n"), line("\tb  "), last_line("!")))
    client.ask(prompt)
    assert client.messages() == [("user", prompt), ("assistant", "  a\n\n\tb  !")]


def test_a_request_includes_the_earlier_messages(client: Client, ollama: ScriptedOllama) -> None:
    client.ask("one", options={"num_predict": 2})
    client.ask("two", "three")
    assert ollama.generations[1].json["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "w0 w1 "},
        {"role": "user", "content": "two"},
        {"role": "user", "content": "three"},
    ]


def test_other_fields_are_passed_to_ollama_unchanged_and_the_appid_is_not(
    client: Client, ollama: ScriptedOllama
) -> None:
    options = '{"seed":1e2,"stop":["\\u0000"],"num_predict":5}'
    further = f'"options":{options},"keep_alive":-1,"think":"high","x":[1.0,12345678901234567890]'
    body = f'{{"appID":"{client.appid}","model":"fake","messages":[],{further},"stream":true}}'
    response = client.http.post("/llmchat", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200
    sent = ollama.arrival(0).wait()
    assert further.encode() in sent.body
    assert b"appID" not in sent.body and client.appid.encode() not in sent.body


def test_further_fields_of_messages_are_stored_and_sent_to_ollama_again(client: Client, ollama: ScriptedOllama) -> None:
    calls = [{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "look", "images": ["aGk="]},
        {"role": "assistant", "content": "", "tool_calls": calls, "thinking": "hm"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "3", "tool_name": "add"},
    ]
    client.ask(messages=messages)
    expected = [*messages[:2], messages[2] | {"content": ""}, messages[3]]
    assert ollama.generations[0].json["messages"] == expected
    stored = client.history()["messages"]
    assert stored[0]["images"] == ["aGk="] and stored[1]["tool_calls"] == calls
    assert stored[1]["thinking"] == "hm" and stored[3]["tool_name"] == "add"
    client.ask("and now?")
    assert ollama.generations[1].json["messages"][:4] == expected


def test_content_that_is_null_is_empty(client: Client, ollama: ScriptedOllama) -> None:
    """Ollama accepts it, too (recorded with its source of 2026-08-21)."""
    body = client.body() | {"messages": [{"role": "user", "content": None, "images": ["aGk="]}]}
    assert client.http.post("/llmchat", json=body).status_code == 200
    assert ollama.generations[0].json["messages"] == [{"role": "user", "content": "", "images": ["aGk="]}]
    assert client.messages()[0] == ("user", "")


def test_thinking_and_tool_calls_are_stored(client: Client, ollama: ScriptedOllama) -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    ollama.script(
        Head(),
        Lines(
            line(message={"thinking": "let me "}),
            line(message={"thinking": "see"}),
            line("", message={"tool_calls": [call]}),
            last_line(message={"tool_calls": [call]}),
        ),
    )
    client.ask("1+?")
    message = client.history()["messages"][-1]
    assert message["role"] == "assistant" and message["content"] == ""
    assert message["thinking"] == "let me see" and message["tool_calls"] == [call, call]


def test_an_empty_list_of_messages_continues_the_conversation(client: Client, ollama: ScriptedOllama) -> None:
    client.ask("hi", options={"num_predict": 2})
    client.ask(options={"num_predict": 2})
    assert ollama.generations[1].json["prompt"].endswith("w0 w1 ")
    assert client.messages() == [("user", "hi"), ("assistant", "w0 w1 w2 w3 ")]


def test_without_streaming_the_one_object_is_one_event(client: Client) -> None:
    events = client.ask("hi", stream=False, options={"num_predict": 3})
    assert [event.id for event in events] == [0]
    assert events[0].json["message"]["content"] == "w0 w1 w2 " and events[0].json["done"] is True
    assert client.messages()[-1] == ("assistant", "w0 w1 w2 ")


def test_the_last_event_is_sent_after_the_message_is_stored(client: Client) -> None:
    with client.prompt("hi") as stream:
        while (event := stream.next()) and not event.json["done"]:
            pass
        assert client.messages()[-1] == ("assistant", "w0 w1 w2 w3 w4 ")


def test_prefer_respond_async_responds_with_the_location_of_the_reply(client: Client) -> None:
    response = client.http.post("/llmchat", json=client.body("hi"), headers={"Prefer": "wait=1, Respond-Async"})
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async"
    started = response.json()
    context = started.pop("context")
    assert (context["messages"], context["left_out"], context["from"], context["estimated"]) == (1, 0, None, True)
    assert started == {
        "id": response.headers["Location"].removeprefix("/llmchat/"),
        "location": response.headers["Location"],
    }
    assert len(client.view(response.headers["Location"])) == 6


@pytest.mark.parametrize("headers", [{"Prefer": "respond-async"}, {"Idempotency-Key": "1"}], ids=str)
def test_a_second_reply_in_a_conversation_is_409_with_the_location_of_the_first(
    client: Client, ollama: ScriptedOllama, headers: dict[str, str]
) -> None:
    gate = Gate()
    ollama.script(Head(), gate, Lines(last_line("x")))
    path = client.begin("one")
    rejected = client.http.post("/llmchat", json=client.body("two"), headers=headers)
    assert rejected.status_code == 409
    assert rejected.headers["Location"] == path
    assert "error" in rejected.json()
    gate.open()
    client.view(path)
    assert client.messages() == [("user", "one"), ("assistant", "x")]


def test_an_idempotency_key_prevents_a_second_reply(client: Client, ollama: ScriptedOllama) -> None:
    headers = {"Idempotency-Key": "k" * 255}
    first = client.ask("hi", headers=headers)
    assert client.ask("hi", headers=headers) == first
    assert len(ollama.generations) == 1
    assert len(client.messages()) == 2
    client.appid += "-other"
    other = client.ask("hi", headers=headers)  # keys belong to a conversation
    assert other[:-1] == first[:-1]
    assert other[-1].json["done"]
    assert len(ollama.generations) == 2


def test_an_idempotency_key_streams_the_first_reply_while_it_is_generated(
    client: Client, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    path = client.begin("hi", headers={"Idempotency-Key": "1"})
    with client.prompt("hi", headers={"Idempotency-Key": "1"}) as stream:
        assert stream.response.headers["Content-Location"] == path
        gate.open()
        assert [event.json["message"]["content"] for event in stream.rest()] == ["a", "b"]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_lines_split_across_reads_are_joined(client: Client, ollama: ScriptedOllama, size: int) -> None:
    lines = [line("a\u2028b\u0085c"), line("😀" * 5), line("x" * 300), last_line("é")]
    body = ndjson(*lines)
    ollama.script(Head(), *[Body(body[start : start + size]) for start in range(0, len(body), size)])
    assert [event.data.encode() for event in client.ask("hi")] == lines


def test_twenty_lines_in_one_chunk_are_twenty_events(client: Client, ollama: ScriptedOllama) -> None:
    lines = [*(line(f"{number} ") for number in range(19)), last_line()]
    ollama.script(Head(), Body(ndjson(*lines)))
    assert [event.id for event in client.ask("hi")] == list(range(20))


def test_lines_may_end_in_crlf_and_the_last_without_newline(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Head(), Body(line("a") + b"\r\n\r\n" + line("b") + b"\r\n" + last_line("c")))
    assert [event.data.encode() for event in client.ask("hi")] == [line("a"), line("b"), last_line("c")]
    assert client.messages()[-1] == ("assistant", "abc")


@pytest.mark.extended
def test_a_line_of_8_mb_is_passed_on(client: Client, ollama: ScriptedOllama) -> None:
    long_line = line("x" * 8_000_000)
    ollama.script(Head(), Lines(long_line, last_line("y")))
    events = client.ask("hi")
    assert events[0].data.encode() == long_line and events[1].data.encode() == last_line("y")
    assert client.messages()[-1] == ("assistant", "x" * 8_000_000 + "y")


@pytest.mark.extended
def test_a_reply_of_100_000_lines_is_complete_and_in_order(client: Client, ollama: ScriptedOllama) -> None:
    count = 100_000
    lines = [line(f"{number} ") for number in range(count)]
    pieces = [Body(ndjson(*lines[start : start + 1000])) for start in range(0, count, 1000)]
    ollama.script(Head(), *pieces, Lines(last_line()))
    path = client.begin("count")
    for events in (client.view(path), client.view(path)):
        assert [event.id for event in events] == list(range(count + 1))
        assert [event.data.encode() for event in events[:-1]] == lines
    assert client.messages()[-1][1] == "".join(f"{number} " for number in range(count))


@pytest.mark.parametrize(
    ("sent", "stored"),
    [(r"a\u0000b", "a\ufffdb"), (r"a\ud83db", "a\ufffdb"), (r"\ude00", "\ufffd"), (r"\ud83d\ude00", "😀")],
)
def test_text_that_postgresql_cannot_store_is_replaced_by_u_fffd(
    client: Client, ollama: ScriptedOllama, sent: str, stored: str
) -> None:
    invalid = b'{"model":"fake","message":{"role":"assistant","content":"%b"},"done":true}' % sent.encode()
    ollama.script(Head(), Lines(invalid))
    assert [(event.name, event.data.encode()) for event in client.ask("hi")] == [("message", invalid)]
    assert client.messages()[-1] == ("assistant", stored)


def test_a_generation_continues_when_its_viewer_disconnects(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    with client.prompt("hi") as stream:
        stream.next()
        path = stream.response.headers["Content-Location"]
    gate.open()
    assert [event.json["message"]["content"] for event in client.view(path)] == ["a", "b"]
    assert client.messages()[-1] == ("assistant", "ab")
    assert ollama.generations[0].answered.happened


def test_an_empty_reply_stores_no_message(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Whole(200, last_line(" \n")))
    client.ask("hi")
    assert client.messages() == [("user", "hi")]


def test_unicode_text_is_stored_unchanged(client: Client) -> None:
    text = "العربية \u202e 中文 \U0001f9d1\u200d\U0001f680 \ufeff\u2029 \\u0041 \x7f\x01"
    client.ask(text)
    assert client.messages()[0] == ("user", text)
    assert ujson.loads(ujson.dumps(client.history()))["messages"][0]["content"] == text
