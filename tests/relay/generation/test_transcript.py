"""The assistant's message, put together from lines exactly as the model wrote it."""

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from db.messages import Message
from relay.generation.transcript import Transcript
from relay.ollama.chat_line import ChatLine

pieces = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8)


def transcript(*lines: ChatLine) -> Transcript:
    it = Transcript()
    for line in lines:
        it.add(line)
    return it


@given(pieces, pieces)
def test_content_and_thinking_are_the_pieces_joined(contents: list[str], thinking: list[str]) -> None:
    it = transcript(*(ChatLine(thinking=one) for one in thinking), *(ChatLine(content=one) for one in contents))
    message = it.message(False)
    thought, said = "".join(thinking), "".join(contents)
    if not thought and not said.strip():
        assert message is None
    else:
        assert message is not None and (message.role, message.content) == ("assistant", said)
        assert ujson.loads(message.extra or "{}") == ({"thinking": thought} if thought else {})


def test_tool_calls_are_kept_in_order() -> None:
    calls = [{"function": {"name": name, "arguments": {"é": [1, None]}}} for name in "abc"]
    message = transcript(ChatLine(tool_calls=calls[:2]), ChatLine(content=""), ChatLine(tool_calls=calls[2:])).message(
        False
    )
    assert message is not None and message.content == ""
    assert ujson.loads(message.extra or "") == {"tool_calls": calls}


@pytest.mark.parametrize("blank", ["", " ", "\n\t\r ", "\u2003\u3000"])
@pytest.mark.parametrize("collapse", [True, False])
def test_a_blank_message_is_none(blank: str, collapse: bool) -> None:
    assert Transcript().message(collapse) is None
    assert transcript(ChatLine(content=blank)).message(collapse) is None


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_collapsed_each_run_of_white_space_is_one_space(text: str) -> None:
    message = transcript(ChatLine(content=text)).message(True)
    if message is not None:
        assert message.content.split() == text.split()
        assert "  " not in message.content
        assert not any(one.isspace() and one != " " for one in message.content if one not in "\x1c\x1d\x1e\x1f\x85")


def test_only_the_content_is_collapsed() -> None:
    assert transcript(ChatLine(content=" a \n\n b\t", thinking="x \n y")).message(True) == Message(
        "assistant", " a b ", '{"thinking":"x \\n y"}'
    )


def test_reading_the_message_does_not_end_it() -> None:
    it = transcript(ChatLine(content="a"))
    assert it.message(False) == Message("assistant", "a")
    it.add(ChatLine(content="b"))
    assert it.message(False) == Message("assistant", "ab")
