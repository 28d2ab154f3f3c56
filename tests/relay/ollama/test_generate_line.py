"""Lines of /api/generate in the form of /api/chat. The lines are recorded from an Ollama (source of 2026-08-21)."""

import ujson
from hypothesis import given
from hypothesis import strategies as st

from relay.ollama import chat_line
from relay.ollama.generate_line import as_chat_line

RECORDED = b'{"model":"smollm2","created_at":"2026-11-27T13:21:55.028481583Z","response":" resilience","done":false}'
RECORDED_LAST = (
    b'{"model":"smollm2","created_at":"2026-11-27T13:21:55.165332758Z","response":"","done":true,"done_reason":"length",'
    b'"total_duration":152137942,"load_duration":2051760,"prompt_eval_count":35,"prompt_eval_duration":12199000,'
    b'"eval_count":12,"eval_duration":136266000}'
)


def test_response_becomes_a_message() -> None:
    assert as_chat_line(RECORDED) == (
        b'{"model":"smollm2","created_at":"2026-11-27T13:21:55.028481583Z",'
        b'"message":{"role":"assistant","content":" resilience"},"done":false}'
    )


def test_last_line_keeps_its_counts_in_order() -> None:
    converted = as_chat_line(RECORDED_LAST)
    assert converted == RECORDED_LAST.replace(b'"response":""', b'"message":{"role":"assistant","content":""}')
    assert chat_line.read(converted).done
    usage = chat_line.usage(converted)
    assert (usage.prompt_eval_count, usage.eval_count) == (35, 12)


def test_half_a_surrogate_pair_is_kept() -> None:
    assert as_chat_line(b'{"model":"m","response":"\\ude00/z","done":false}') == (
        b'{"model":"m","message":{"role":"assistant","content":"\\ude00/z"},"done":false}'
    )


def test_thinking_becomes_a_field_of_the_message_and_context_is_removed() -> None:
    line = b'{"model":"m","response":"a","thinking":"hm","done":true,"context":[1,2]}'
    assert ujson.loads(as_chat_line(line)) == {
        "model": "m",
        "message": {"role": "assistant", "content": "a", "thinking": "hm"},
        "done": True,
    }


def test_errors_and_unreadable_lines_are_unchanged() -> None:
    for line in (b'{"error":"no"}', b"{", b"[1]", b'"a"', b"\xff", b'{"response":'):
        assert as_chat_line(line) == line


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_kept(text: str) -> None:
    line = ujson.dumps({"model": "m", "response": text, "done": False}).encode()
    assert chat_line.read(as_chat_line(line)).content == text
