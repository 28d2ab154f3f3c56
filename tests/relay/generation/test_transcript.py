"""The assistant's message, collected from lines exactly as the model sent it."""

import msgspec
import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from db.messages import Message
from relay.generation.transcript import Transcript
from relay.ollama.chat_line import ChatLine

parts = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8), max_size=8)


def transcript_of(*lines: ChatLine) -> Transcript:
    transcript = Transcript()
    for line in lines:
        transcript.add(line)
    return transcript


@given(parts, parts)
def test_content_and_thinking_are_concatenated(contents: list[str], thinking: list[str]) -> None:
    lines = [*(ChatLine(thinking=text) for text in thinking), *(ChatLine(content=text) for text in contents)]
    transcript = transcript_of(*lines)
    message = transcript.message(False)
    thinking_text, content = "".join(thinking), "".join(contents)
    if not thinking_text and not content.strip():
        assert message is None
    else:
        assert message is not None and (message.role, message.content) == ("assistant", content)
        assert ujson.loads(message.extra or "{}") == ({"thinking": thinking_text} if thinking_text else {})


def test_tool_calls_are_kept_in_order() -> None:
    calls = [{"function": {"name": name, "arguments": {"é": [1, None]}}} for name in "abc"]
    raw = [Raw(msgspec.json.encode(call)) for call in calls]
    message = transcript_of(ChatLine(tool_calls=raw[:2]), ChatLine(content=""), ChatLine(tool_calls=raw[2:])).message(
        False
    )
    assert message is not None and message.content == ""
    assert ujson.loads(message.extra or "") == {"tool_calls": calls}


@pytest.mark.parametrize("blank", ["", " ", "\n\t\r ", "\u2003\u3000"])
@pytest.mark.parametrize("collapse", [True, False])
def test_a_blank_message_is_none(blank: str, collapse: bool) -> None:
    assert Transcript().message(collapse) is None
    assert transcript_of(ChatLine(content=blank)).message(collapse) is None


def test_halves_of_a_surrogate_pair_in_two_lines_are_joined_and_the_rest_is_replaced() -> None:
    transcript = transcript_of(ChatLine(content="a\ud83d"), ChatLine(content="\ude00\ude00\0"))
    assert transcript.content == "a\U0001f600\ufffd\ufffd"


def test_thought_before_a_restart_is_removed() -> None:
    lines = [ChatLine(thinking="hm"), ChatLine(thinking_restarted=True), ChatLine(thinking="so")]
    assert transcript_of(*lines).thinking == "so"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_each_run_of_white_space_collapses_to_one_space(text: str) -> None:
    message = transcript_of(ChatLine(content=text)).message(True)
    if message is not None:
        assert message.content.split() == text.split()
        assert "  " not in message.content
        assert not any(one.isspace() and one != " " for one in message.content if one not in "\x1c\x1d\x1e\x1f\x85")


def test_only_content_is_collapsed() -> None:
    assert transcript_of(ChatLine(content=" a \n\n b\t", thinking="x \n y")).message(True) == Message(
        "assistant", " a b ", '{"thinking":"x \\n y"}'
    )


def test_lines_can_be_added_after_reading_the_message() -> None:
    transcript = transcript_of(ChatLine(content="a"))
    assert transcript.message(False) == Message("assistant", "a")
    transcript.add(ChatLine(content="b"))
    assert transcript.message(False) == Message("assistant", "ab")
