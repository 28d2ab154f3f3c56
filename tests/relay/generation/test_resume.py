"""How a reply that broke off is continued: what hinders it, what the model is given, what is left of a limit."""

import pytest
import ujson

from db.messages import Message
from relay.generation import resume
from relay.generation.transcript import Transcript
from relay.ollama.chat_line import ChatLine
from tests.fakes.ollama import line

HI = Message("user", "hi")


def said(*contents: str, thinking: str = "", tool_calls: bool = False) -> Transcript:
    transcript = Transcript()
    transcript.add(ChatLine(thinking=thinking, tool_calls=[{}] if tool_calls else []))
    for content in contents:
        transcript.add(ChatLine(content=content))
    return transcript


def test_what_the_log_holds_is_what_the_model_said() -> None:
    transcript = Transcript()
    lines = [line("a "), b'{"error":"no json"}', line("", message={"thinking": "hm"}), line("b")]
    resume.replay(transcript, lines)
    message = transcript.message(collapse_whitespace=False)
    assert message is not None and (message.content, message.extra) == ("a b", '{"thinking":"hm"}')
    assert transcript.estimated_tokens == 3


@pytest.mark.parametrize(
    ("request_fields", "transcript", "possible"),
    [
        ({}, said(), True),
        ({}, said("a"), True),
        ({"format": None}, said("a"), True),
        ({"format": ""}, said("a"), True),
        ({}, said("a", thinking="hm"), True),
        ({"format": "json"}, said(), True),
        ({"format": "json"}, said("{"), False),
        ({"format": {"type": "object"}}, said("{"), False),
        ({}, said(thinking="hm"), False),
        ({}, said("a", tool_calls=True), False),
    ],
)
def test_a_thought_a_call_or_a_bound_answer_cannot_be_continued(
    request_fields: dict[str, object], transcript: Transcript, possible: bool
) -> None:
    request = ujson.dumps({"model": "m"} | request_fields)
    assert (resume.why_not_resumable(request, transcript, 1) is None) is possible


def test_a_reply_that_gets_no_further_is_given_up() -> None:
    assert resume.why_not_resumable("{}", said("a"), resume.MAX_ATTEMPTS) is None
    assert resume.why_not_resumable("{}", said("a"), resume.MAX_ATTEMPTS + 1)


def test_the_model_is_given_its_own_words_last() -> None:
    assert resume.messages_to_continue([HI], said()) == [HI]
    assert resume.messages_to_continue([HI], said("a ", "b")) == [HI, Message("assistant", "a b")]


def test_a_reply_that_continued_a_message_is_one_message_with_it() -> None:
    before = [HI, Message("assistant", "a ")]
    assert resume.messages_to_continue(before, said("b ")) == [HI, Message("assistant", "a b ")]
    assert resume.messages_to_continue(before, said()) == before


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (None, None),
        ({}, {}),
        ({"num_predict": 5, "seed": 1}, {"num_predict": 3, "seed": 1}),
        ({"num_predict": -1}, {"num_predict": -1}),
        ({"num_predict": 0}, {"num_predict": 0}),
        ({"num_predict": "many"}, {"num_predict": "many"}),
        ("odd", "odd"),
    ],
)
def test_what_was_said_counts_against_the_limit_of_tokens(options: object, left: object) -> None:
    fields = {"model": "m"} if options is None else {"model": "m", "options": options}
    request = resume.remaining_request(ujson.dumps(fields), said("a", "b"))
    assert request is not None
    assert ujson.loads(request).get("options") == left


@pytest.mark.parametrize("limit", [1, 2])
def test_nothing_is_left_of_a_limit_that_was_reached(limit: int) -> None:
    assert resume.remaining_request(ujson.dumps({"options": {"num_predict": limit}}), said("a", "b")) is None
