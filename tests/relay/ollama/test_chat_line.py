"""Decoding the lines of /api/chat, and encoding the lines that chatterd adds."""

import contextlib
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

import json_text
from errors import UnreadableLine
from relay.ollama import chat_line
from relay.ollama.chat_line import ChatLine
from tests.fakes.ollama import last_line, line

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        (line("a"), ChatLine("a")),
        (last_line("z"), ChatLine("z", done=True)),
        (line("", message={"thinking": "hm"}), ChatLine(thinking="hm")),
        (line("a", message={"tool_calls": [{"x": 1}]}), ChatLine("a", tool_calls=[Raw(b'{"x":1}')])),
        (line("a", message={"images": ["x"], "tool_name": None}), ChatLine("a")),
        (b'{"model":"m"}', ChatLine()),
        (b' {"done" : true , "model":"m"} ', ChatLine(done=True)),
        (b'{"model":"m","message":{"content":null}}', ChatLine()),
        (b'{"model":"m","message":null,"done":null}', ChatLine()),
        (b'{"model":"m","message":[],"done":"true"}', ChatLine()),
        (b'{"model":"m","message":{"content":5,"thinking":[],"tool_calls":{}},"done":1}', ChatLine()),
        (b'{"model":"m","error":null,"message":{"content":"a"}}', ChatLine("a")),
        (b'{"model":"m","message":{"content":"\xe2\x80\xa8\\u00e9\\ud83d\\ude00"}}', ChatLine("\u2028é😀")),
        (b'{"model":"m","message":{"content":"\\u0000\\ud83d\\ude00\\ude00"}}', ChatLine("\0😀\ude00")),
        (b'{"model":"m","message":{"thinking":"\\ud800"}}', ChatLine(thinking="\ud800")),
        (
            b'{"model":"m","message":{"tool_calls":[{"a\\u0000":["\\udfff",1]}]}}',
            ChatLine(tool_calls=[Raw(rb'{"a\ufffd":["\ufffd",1]}')]),
        ),
        (
            b'{"model":"m","message":{"tool_calls":[{"b": 1.0, "a": [1e3, 2048.0]}, 12345678901234567890123]}}',
            ChatLine(tool_calls=[Raw(b'{"b": 1.0, "a": [1e3, 2048.0]}'), Raw(b"12345678901234567890123")]),
        ),
        (b'{"model":"m","x":123456789012345678901234567890,"y":1e999}', ChatLine()),
        (b'{"error":"no"}', ChatLine(error="no")),
        (b'{"error":"no","model":"m","done":true}', ChatLine(error="no")),
        (b'{"error":{"message":"no"}}', ChatLine(error='{"message":"no"}')),
        (b'{"error":"\\u0000\\ud800"}', ChatLine(error="\ufffd\ufffd")),
        (b'{"error":"a/b"}', ChatLine(error="a/b")),
    ],
)
def test_a_valid_line_is_decoded(text: bytes, decoded: ChatLine) -> None:
    assert chat_line.read(text) == decoded


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"null",
        b"1",
        b'"m"',
        b"[]",
        b'[{"model":"m"}]',
        b"{}",
        b'{"model":""}',
        b'{"model":null}',
        b'{"model":7}',
        b'{"Model":"m"}',
        b'{"model":"m"',
        b'{"model":"m"}}',
        b'{"model":"m"} {"model":"m"}',
        b"{'model':'m'}",
        b'{"model":"\xff"}',
        b'{"model":"m","message":{"content":"\xed\xa0\x80"}}',
        b'\xef\xbb\xbf{"model":"m"}',
        b'{"error":null}',
        b'{"error":"","error":null,"model":"m","message":{"content":"a"}}',
        b"[" * 100_000,
        b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_an_invalid_line_raises_an_error_that_has_the_line(text: bytes) -> None:
    with pytest.raises(UnreadableLine) as raised:
        chat_line.read(text)
    assert raised.value.line == text


@given(values)
def test_any_json_is_decoded_or_unreadable(value: Any) -> None:
    for candidate in (value, {"model": "m", "message": value}, {"model": "m", "error": value}, {"model": value}):
        try:
            decoded = chat_line.read(json.dumps(candidate).encode())
        except UnreadableLine:
            continue
        assert (
            isinstance(decoded.content, str)
            and isinstance(decoded.thinking, str)
            and isinstance(decoded.tool_calls, list)
        )
        assert isinstance(decoded.done, bool)


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_unreadable(text: bytes) -> None:
    with contextlib.suppress(UnreadableLine):
        assert isinstance(chat_line.read(b"{" + text), ChatLine)


@given(st.text(st.characters(), max_size=50))
def test_decoded_text_can_be_stored(text: str) -> None:
    decoded = chat_line.read(
        json.dumps({"model": "m", "message": {"content": text, "tool_calls": [{text: text}]}}).encode()
    )
    assert decoded.content.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")
    [[[name, value]]] = [call.items() for call in map(json.loads, map(bytes, decoded.tool_calls))]
    assert name == value == chat_line.storable(text)


@given(st.text(st.characters(exclude_characters="\0"), max_size=50))
def test_only_nul_and_lone_surrogates_are_replaced_in_a_text(text: str) -> None:
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert chat_line.storable(clean) == clean
    assert chat_line.storable(text) == clean


@given(st.text(st.characters(), max_size=200))
def test_an_error_line_is_one_line_of_json_with_single_quotes_for_double_quotes(text: str) -> None:
    made = chat_line.error_line(text)
    assert b"\n" not in made and b"\r" not in made
    assert json.loads(made) == {"error": chat_line.storable(text).replace('"', "'")}


@given(st.text(st.characters(), max_size=200), st.binary(max_size=200))
def test_every_error_line_is_recognized(text: str, line: bytes) -> None:
    assert chat_line.is_error_line(chat_line.error_line(text))
    assert chat_line.is_error_line(chat_line.unreadable_line(line))


chat_fields = st.fixed_dictionaries(
    {"model": st.text(min_size=1, max_size=5)},
    optional={"message": values, "done": values, "error": st.none() | st.just("") | values, "created_at": values},
)


@given(
    st.permutations(['"error":""', '"error":"x"', '"error":null', '"error":{"message":"x"}', '"model":"m"']),
    st.integers(1, 5),
    chat_fields,
)
def test_no_line_that_is_decoded_as_a_chat_line_is_recognized_as_an_error_line(
    members: list[str], count: int, fields: dict[str, Any]
) -> None:
    more = json.dumps(fields, separators=(",", ":"))
    for text in (more, "{" + ",".join(members[:count]) + "}", "{" + ",".join(members[:count]) + "," + more[1:]):
        try:
            decoded = chat_line.read(text.encode())
        except UnreadableLine:
            continue
        assert decoded.error is not None or not chat_line.is_error_line(text.encode())


@given(st.text(max_size=5), st.dictionaries(st.text(max_size=5), values, max_size=3), st.none() | st.text(max_size=5))
def test_no_chat_line_that_chatterd_adds_is_recognized_as_an_error_line(
    model: str, message: dict[str, Any], reason: str | None
) -> None:
    assert not chat_line.is_error_line(chat_line.own_line(model, message, reason))


@pytest.mark.parametrize(("length", "shown"), [(4096, 4096), (4097, 4096 + 4), (10**6, 4096 + 4)])
def test_a_long_error_is_cut(length: int, shown: int) -> None:
    assert len(json.loads(chat_line.error_line("é" * length))["error"]) == shown


@given(st.binary(max_size=100))
def test_an_unreadable_line_is_quoted_with_replacement_characters(text: bytes) -> None:
    quoted = json.loads(chat_line.unreadable_line(text))["error"]
    assert quoted == text.decode(errors="replace").replace("\0", "\ufffd").replace('"', "'")


@pytest.mark.parametrize("reason", [None, "stop", "stopped"])
def test_a_chat_line_that_chatterd_adds_has_ollamas_format(reason: str | None) -> None:
    made = chat_line.own_line("m", {"content": "é\n", "thinking": "x"}, reason)
    assert b"\n" not in made
    decoded = json.loads(made)
    created = decoded.pop("created_at")
    assert datetime.fromisoformat(created).tzinfo is not None and created.endswith("Z")
    assert decoded.pop("message") == {"role": "assistant", "content": "é\n", "thinking": "x"}
    assert decoded == {"model": "m", "done": reason is not None} | ({"done_reason": reason} if reason else {})
    assert chat_line.read(made) == ChatLine("é\n", thinking="x", done=reason is not None)


@pytest.mark.parametrize(
    ("last", "counts"),
    [
        (last_line("z"), (10, 5)),
        (line("z", done=True), (0, 0)),
        (b'{"eval_count":7}', (0, 7)),
        (b'{"prompt_eval_count":-1,"eval_count":7}', (0, 0)),
        (b'{"eval_count":' + b"9" * 400 + b"}", (0, 0)),
        (b'{"eval_count":"7"}', (0, 0)),
        (b'{"eval_count":1e999}', (0, 0)),
        (b'{"x":"\xff"}', (0, 0)),
        (b"[", (0, 0)),
    ],
)
def test_valid_token_counts_of_the_last_line_are_returned(last: bytes, counts: tuple[int, int]) -> None:
    usage = chat_line.usage(last)
    assert (usage.prompt_eval_count, usage.eval_count) == counts


def with_calls(calls: bytes) -> bytes:
    return b'{"model":"m","message":{"content":"","tool_calls":' + calls + b'},"done":false}'


def test_a_tool_call_keeps_its_keys_and_numbers_as_they_were_sent() -> None:
    call = rb'{"b": 1.50, "a":[17e307,12345678901234567890123],"c":"\u0041\\ud83d\ud83d\ude00"}'
    assert chat_line.read(with_calls(b"[" + call + b"]")).tool_calls == [Raw(call)]


def test_the_numbers_of_a_line_are_not_converted_but_those_of_tool_calls_are_checked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bytes] = []

    def look_at(number: bytes) -> bool:
        seen.append(number)
        return True

    monkeypatch.setattr(json_text, "is_number_accepted", look_at)
    numbers = b"17e307," * 10_000
    assert chat_line.read(b'{"model":"m","x":[' + numbers + b"1]}") == ChatLine()
    assert chat_line.read(b'{"error":[' + numbers + b"1]}").error is not None
    assert seen == []
    assert len(chat_line.read(with_calls(b"[{},[" + numbers + b"1]]")).tool_calls) == 2
    assert len(seen) == 10_001


@pytest.mark.parametrize(
    "calls",
    [
        b"[" + b"17e307," * 1_000_000 + b"1]",
        b"[" + b"[]," * 1_000_000 + b"1]",
        b"[" + b"[" * 501 + b"]" * 501 + b"]",
        b'["' + b"\\u0000" * 20_000 + b'"]',
        b'["\\ud83d"' + b",[]" * 1_000_000 + b"]",
    ],
)
def test_a_line_whose_tool_calls_cannot_be_stored_or_have_too_many_values_is_unreadable(calls: bytes) -> None:
    with pytest.raises(UnreadableLine):
        chat_line.read(with_calls(calls))


def test_numbers_that_no_double_holds_are_null_in_tool_calls() -> None:
    sent = b'[{"a":[1e-9999,-0,"1e400"]},%b,1e400]' % (b"9" * 5_000)
    assert chat_line.read(with_calls(sent)).tool_calls == [Raw(b'{"a":[null,-0,"1e400"]}'), Raw(b"null"), Raw(b"null")]


def test_tool_calls_as_deep_as_the_limit_are_read() -> None:
    assert chat_line.read(with_calls(b"[" + b"[" * 500 + b"]" * 500 + b"]")).tool_calls


@pytest.mark.parametrize("more", [b"", rb"\ud83d", rb"\u0000"])
def test_characters_are_replaced_in_linear_time(more: bytes) -> None:
    text = b'["' + more + rb"\u0041\\" * 500_000 + b'"]'
    [call] = chat_line.read(with_calls(text)).tool_calls
    assert json.loads(bytes(call)) == ("\ufffd" if more else "") + "A\\" * 500_000
