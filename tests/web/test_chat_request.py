"""The parser of prompts: what becomes a message, what is passed on to Ollama, and which error names which field."""

import codecs
import gc
import re
from typing import Any

import msgspec
import pytest

import json_text
from db.messages import Message
from errors import BadRequest, UnprocessableContent
from relay.generation.prompt import Prompt
from tests.stepping import count_pauses, finish
from web.chat_request import check_appid, count_prompt_characters, parse_chat_request
from web.json_body import decoding


def parse(body: Any, key: str | None = None, max_messages: int = 10, max_depth: int = 10) -> Prompt:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return finish(parse_chat_request(encoded, "tenant", key, max_messages, max_depth))


def body(**fields: Any) -> dict[str, Any]:
    return {"appID": "a", "model": "m", "messages": []} | fields


def test_a_prompt_has_its_tenant_conversation_model_key_and_messages() -> None:
    prompt = parse(body(messages=[{"role": "user", "content": "hi"}]), key="k")
    assert (prompt.tenant, prompt.appid, prompt.model) == ("tenant", "a", "m")
    assert prompt.messages == [Message("user", "hi", None)]
    assert prompt.idempotency_key == "k"


def test_further_fields_are_kept_byte_for_byte() -> None:
    prompt = parse(b'{"appID":"a","model":"m","messages":[],"options":{"seed": 1e2,"x":"\\u0000"},"stream":true}')
    assert {name: bytes(raw) for name, raw in prompt.options.items()} == {
        "options": b'{"seed": 1e2,"x":"\\u0000"}',
        "stream": b"true",
    }


def test_further_fields_of_a_message_are_kept_as_json() -> None:
    [message] = parse(body(messages=[{"role": "tool", "content": "3", "tool_name": "add"}])).messages
    assert message == Message("tool", "3", '{"tool_name":"add"}')


def test_a_message_that_only_calls_tools_has_an_empty_content() -> None:
    [message] = parse(body(messages=[{"role": "assistant", "tool_calls": []}])).messages
    assert message == Message("assistant", "", '{"tool_calls":[]}')


@pytest.mark.parametrize(
    ("encoded", "sentence"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"appID":"\xff"}', "not valid UTF-8: byte 0xFF at position 10"),
        (b'{"appID":"a","x":"\xff"}', "not valid UTF-8"),
        (b'{"appID":"\xed\xa0\xbd"}', "not valid UTF-8"),
        (b"[]", "must be a JSON object"),
        (b'"a"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"appID":"a","model":"m","messages":[],"x":' + b"[" * 10 + b"]" * 10 + b"}", "at most 10 levels"),
        (b'{"x":' * 100_000, "at most 10 levels"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_a_bad_request(encoded: bytes, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        parse(encoded)


@pytest.mark.parametrize(
    ("encoded", "sentence"),
    [
        (b"", "it is empty"),
        (b" \r\n", "it is empty"),
        ('{"appID":"a"}'.encode("utf-16"), "UTF-16.*PowerShell"),
        ('{"appID":"é"}'.encode("utf-16-le"), "UTF-16"),
        ('{"appID":"a"}'.encode("utf-16-be"), "UTF-16"),
        (b"'{appID:a,model:m}'", "single quote.*--data-binary"),
        (b"{'appID':'a'}", "not in single ones"),
        (b"{appID:a,model:m,messages:[]}", "not in double quotes.*--data-binary"),
        (rb"{\"appID\":\"a\"}", "backslashes before its quotes"),
        (b"appID=a&model=m", "a form"),
        (b"messages%5B0%5D=a", "a form"),
        (b'{"appID":"a",}', r"comma stands before the closing bracket \(position 13\)"),
        (b'{"messages":[1,]}', "comma stands before the closing bracket"),
        (b'{"appID":NaN}', "NaN and Infinity"),
        (b'{"appID":-Infinity}', "NaN and Infinity"),
        (b'{"appID":None}', "lower case"),
        (b'{"appID":"a" // comment\n}', "no comments"),
        (b'{"appID":"two\nlines"}', r"line breaks.*position 13"),
        (rb'{"appID":"C:\temp\x"}', "backslash within a text twice"),
        (b'{"appID":"a"} {}', "something follows"),
        (b'{"appID":"a"', "ends too early"),
        (b'{"appID" "a"}', r"expected ':' \(position 9\)"),
    ],
)
def test_the_error_of_a_body_that_is_not_json_says_what_is_wrong(encoded: bytes, sentence: str) -> None:
    with pytest.raises(BadRequest, match=f"(?s)The body is not JSON: .*{sentence}"):
        parse(encoded)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (rb'"appID":"\ud83d"', "appID"),
        (rb'"model":"m\ude00"', "model"),
        (rb'"messages":[{},{"role":"user","content":"a \ud83d b"}]', "messages[1].content"),
        (rb'"messages":[{"role":"user","content":"","tool_name":"\uDE00\uD83D"}]', "messages[0].tool_name"),
        (rb'"options":{"stop":["ok","\uDBFF"]}', "options.stop[1]"),
        (rb'"options":{"\ud800":1}', "The name of a field of options"),
        (rb'"\ud800":1', "The name of a field"),
        (rb'"appID":"\ud83d","appID":"a"', "appID"),
        (b'"images":["' + b"x" * 200_000 + rb'\ud83d"]', "images[0]"),
        ('"\u2028 \u202eé\u00ad":"'.encode() + rb'\ud83d"', r"\u2028\u0020\u202eé\u00ad"),
    ],
)
def test_half_a_surrogate_pair_is_reported_with_its_field(changed: bytes, field: str) -> None:
    with pytest.raises(UnprocessableContent, match=f"^{re.escape(field)} contains half of a surrogate pair"):
        parse(b'{"appID":"a","model":"m","messages":[],' + changed + b"}")


def test_a_whole_surrogate_pair_is_one_character() -> None:
    encoded = rb'{"appID":"a","model":"m","messages":[{"role":"user","content":"\ud83d\ude00"}]}'
    assert parse(encoded).messages == [Message("user", "😀")]


def test_a_byte_order_mark_of_utf_8_is_ignored() -> None:
    assert parse(codecs.BOM_UTF8 + msgspec.json.encode(body(x=1))).options == {"x": msgspec.Raw(b"1")}


def test_of_a_repeated_field_the_last_one_counts_and_is_passed_on() -> None:
    encoded = b'{"appID":"a","appID":"b","model":"m","think":1,"think":2,"messages":[{"role":"user","content":"x"}],'
    encoded += b'"messages":[{"role":"system","role":"user","content":"1","content":"2","n":1,"n":2}]}'
    prompt = parse(encoded)
    assert (prompt.appid, prompt.options) == ("b", {"think": msgspec.Raw(b"2")})
    assert prompt.messages == [Message("user", "2", '{"n":2}')]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"Model": "other"}, "Model must be written model"),
        ({"MESSAGES": []}, "MESSAGES must be written messages"),
        ({"meſſages": []}, "must be written messages"),
        ({"messages": [{"role": "user", "content": "a", "Content": "b"}]}, r"messages\[0\].Content must be"),
        ({"messages": [{"role": "user", "content": "a", "ROLE": "system"}]}, r"messages\[0\].ROLE must be"),
    ],
)
def test_a_second_spelling_that_ollama_would_take_for_the_field_is_rejected(
    changed: dict[str, Any], field: str
) -> None:
    with pytest.raises(UnprocessableContent, match=field):
        parse(body(**changed))


def test_nesting_up_to_the_limit_is_accepted() -> None:
    nested: Any = []
    for _ in range(8):
        nested = [nested]
    assert parse(body(options=nested)).options


def test_a_body_with_too_many_values_is_a_bad_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_JSON_TOKENS", 20)
    assert parse(body(x="," * 100))
    with pytest.raises(BadRequest, match="too many values"):
        parse(body(x=[1] * 20))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"appID": None}, "appID is missing"),
        ({"appID": ""}, "appID is missing"),
        ({"appID": 7}, "appID must be a string"),
        ({"appID": "é" * 156}, "appID is too long: it may have 155"),
        ({"model": None}, "model is missing"),
        ({"model": ["m"]}, "model is missing"),
        ({"model": "é" * 501}, "model is too long: a name may have 1,000 bytes"),
        ({"messages": None}, "messages must be a list"),
        ({"messages": {}}, "messages must be a list"),
        ({"messages": [{"role": "user", "content": "hi"}] * 11}, "messages has 11 entries; one prompt may have 10"),
        ({"messages": ["hi"]}, r"messages\[0\] must be an object"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, r"messages\[0\].role must be one of system, user"),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "user"}]}, r"messages\[1\].content must be"),
    ],
)
def test_an_invalid_field_is_named(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnprocessableContent, match=sentence):
        parse(body(**changed))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (b'"options":{"seed":1e400}', "options.seed"),
        (b'"options":{"stop":["1e999",{"a":[0,1e-9999]}]}', "options.stop[1].a[1]"),
        (b'"x":' + b"9" * 400, "x"),
        (
            b'"messages":[{"role":"user","content":"a"},{"role":"user","content":"b","n":[-1.8e308]}]',
            "messages[1].n[0]",
        ),
        (b'"messages":[{"role":"user","content":"a","n":{"b":1' + b"0" * 200_000 + b"}}]", "messages[0].n.b"),
    ],
)
def test_a_number_of_absurd_length_or_exponent_is_reported_with_its_field(changed: bytes, field: str) -> None:
    with pytest.raises(UnprocessableContent, match=f"^{re.escape(field)} is a number out of range"):
        parse(b'{"appID":"a","model":"m","messages":[],' + changed + b"}")


def test_numbers_up_to_the_range_of_a_double_are_passed_on_as_they_were_sent() -> None:
    numbers = b'{"a":[1.7976931348623157e+308, 17e307,1E-400,-0.0,12345678901234567890123]}'
    encoded = b'{"appID":"a","model":"m","options":%b,"messages":[{"role":"user","content":"","x":%b}]}'
    prompt = parse(encoded % (numbers, numbers))
    assert bytes(prompt.options["options"]) == numbers
    assert prompt.messages[0].extra == '{"x":' + numbers.decode() + "}"


def test_each_number_is_looked_at_once_and_none_is_converted_to_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def look_at(number: bytes) -> bool:
        seen.append(number)
        return True

    monkeypatch.setattr(json_text, "is_number_accepted", look_at)
    numbers = b"17e307," * 50_000
    encoded = b'{"appID":"a","model":"m","messages":[{"role":"user","content":"hi","x":[' + numbers + b"1]}]}"
    [message] = parse(encoded).messages
    assert len(seen) <= 50_001
    assert message.extra == '{"x":[' + numbers.decode() + "1]}"


@pytest.mark.parametrize(
    "field",
    [
        b'"content":"' + b"a" * 4_000_000 + b'"',
        b'"content":"' + b"\\u20ac" * 600_000 + b'"',
        b'"content":"","images":["' + b"a" * 4_000_000 + b'"]',
        b'"content":"","x":[' + b"17e307," * 400_000 + b"1]",
    ],
)
def test_a_large_prompt_is_parsed_in_slices(field: bytes) -> None:
    body = b'{"appID":"a","model":"m","messages":[{"role":"user",' + field + b"}]}"
    prompt, pauses = count_pauses(parse_chat_request(body, "tenant", None, 10, 10))
    assert pauses >= 2 * len(body) / json_text.SLICE_BYTES  # encoding, then the values
    assert len(prompt.messages) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b"n" * 1_000_000 + b'":[' + b'"",' * 100_000 + b'"\\ud800"]}',  # a name of a million characters
        b'{"x":' + b"[" * 50 + b'"' + b"a" * 1_000_000 + b'\\ud800"',
        b"{" + b" " * 1_000_000 + b"'",
        b"a" * 1_000_000,
        b"\\" * 1_000_000,
        b'{"x":"' + b'\\"' * 500_000,
        b'{"x":"' + b"a" * 1_000_000 + b"\xff",
    ],
)
def test_an_error_is_found_in_slices_and_has_a_short_sentence(body: bytes) -> None:
    with pytest.raises((BadRequest, UnprocessableContent)) as raised:
        parse(body, max_depth=100)
    assert len(str(raised.value)) < 400


def test_a_small_prompt_does_not_wait_for_the_event_loop() -> None:
    encoded = msgspec.json.encode(body(messages=[{"role": "user", "content": "a" * 10_000}] * 5, options={"seed": 1}))
    assert count_pauses(parse_chat_request(encoded, "tenant", None, 10, 10))[1] == 0


def test_a_prompt_does_not_keep_the_body_in_memory() -> None:
    encoded = bytearray(msgspec.json.encode(body(options={"seed": 1}, messages=[{"role": "user", "content": "hi"}])))
    prompt = finish(parse_chat_request(bytes(encoded), "tenant", None, 10, 10))
    whole = [one for raw in prompt.options.values() for one in gc.get_referents(raw) if isinstance(one, bytes)]
    assert all(len(one) < 20 for one in whole)
    assert sum(memoryview(raw).nbytes for raw in prompt.options.values()) == len('{"seed":1}')


@pytest.mark.parametrize(
    ("messages", "more", "count"),
    [
        ([], {}, 0),
        ([{"role": "user", "content": "abc\u20ac\n\U0001f600"}], {}, 4 + 4 + 7 + 6),
        ([{"role": "user", "content": "abc", "images": ["x" * 1_000]}], {}, 4 + 4 + 7 + 3 + 6),
        ([{"role": "user", "content": "abc", "images": [{"x": "y" * 1_000}]}], {}, 4 + 4 + 7 + 3 + 6 + 1_001),
        ([{"role": "user", "content": "abc", "images": "x" * 1_000}], {}, 4 + 4 + 7 + 3 + 6 + 1_000),
        ([{"role": "user", "content": "abc", "x": {"images": ["x" * 1_000]}}], {}, 4 + 4 + 7 + 3 + 1 + 6 + 1_000),
        ([], {"images": ["x" * 1_000]}, 6 + 1_000),
        ([], {"options": {"images": ["x" * 1_000]}}, 7 + 6 + 1_000),
        ([], {"x": "y" * 200_000}, 1 + 200_000),
        ([], {"x": "\u20ac" * 100_000}, 1 + 100_000),
    ],
)
def test_all_text_counts_but_images_where_ollama_reads_them(messages: Any, more: Any, count: int) -> None:
    encoded = msgspec.json.encode(body(messages=messages) | more)
    counted = finish(count_prompt_characters(encoded, parse(encoded).messages))
    assert counted == count + len("appIDamodelmmessages")


@pytest.mark.parametrize("key", ["", "k" * 256, "a\0b"])
def test_an_invalid_idempotency_key_is_named(key: str) -> None:
    with pytest.raises(UnprocessableContent, match="Idempotency-Key must have 1 to 255 characters"):
        parse(body(), key=key)


@pytest.mark.parametrize("key", [None, "k", "k" * 255, "é\n"])
def test_a_valid_idempotency_key_is_kept(key: str | None) -> None:
    assert parse(body(), key=key).idempotency_key == key


def test_an_appid_of_155_characters_is_accepted() -> None:
    assert check_appid("é" * 155) == "é" * 155
