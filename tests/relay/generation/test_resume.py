"""Resuming an interrupted reply: whether it is resumable, the messages sent, and the remaining token limit."""

import pytest
import ujson

from db.messages import Message
from relay.generation import resume
from relay.generation.transcript import Transcript
from relay.ollama.chat_line import ChatLine
from tests.fakes.ollama import line

HI = Message("user", "hi")


def transcript_of(*contents: str, thinking: str = "", tool_calls: bool = False) -> Transcript:
    transcript = Transcript()
    transcript.add(ChatLine(thinking=thinking, tool_calls=[{}] if tool_calls else []))
    for content in contents:
        transcript.add(ChatLine(content=content))
    return transcript


def test_transcript_is_restored_from_the_log() -> None:
    transcript = Transcript()
    lines = [line("a "), b'{"error":"no json"}', line("", message={"thinking": "hm"}), line("b")]
    resume.replay(transcript, lines)
    message = transcript.message(collapse_whitespace=False)
    assert message is not None and (message.content, message.extra) == ("a b", '{"thinking":"hm"}')
    assert transcript.estimated_tokens == 3


@pytest.mark.parametrize(
    ("request_fields", "transcript", "resumable"),
    [
        ({}, transcript_of(), True),
        ({}, transcript_of("a"), True),
        ({"format": None}, transcript_of("a"), True),
        ({"format": ""}, transcript_of("a"), True),
        ({}, transcript_of("a", thinking="hm"), True),
        ({"format": "json"}, transcript_of(), True),
        ({"format": "json"}, transcript_of("{"), False),
        ({"format": {"type": "object"}}, transcript_of("{"), False),
        ({}, transcript_of(thinking="hm"), False),
        ({}, transcript_of("a", tool_calls=True), False),
    ],
)
def test_thinking_tool_calls_and_formats_are_not_resumable(
    request_fields: dict[str, object], transcript: Transcript, resumable: bool
) -> None:
    request = ujson.dumps({"model": "m"} | request_fields)
    assert (resume.why_not_resumable(request, transcript, 1) is None) is resumable


def test_reply_without_progress_is_not_resumed_forever() -> None:
    assert resume.why_not_resumable("{}", transcript_of("a"), resume.MAX_ATTEMPTS) is None
    assert resume.why_not_resumable("{}", transcript_of("a"), resume.MAX_ATTEMPTS + 1)


def test_transcript_is_the_last_message() -> None:
    assert resume.messages_to_continue([HI], transcript_of()) == [HI]
    assert resume.messages_to_continue([HI], transcript_of("a ", "b")) == [HI, Message("assistant", "a b")]


def test_transcript_is_appended_to_the_assistants_message_that_it_continues() -> None:
    before = [HI, Message("assistant", "a ")]
    assert resume.messages_to_continue(before, transcript_of("b ")) == [HI, Message("assistant", "a b ")]
    assert resume.messages_to_continue(before, transcript_of()) == before


@pytest.mark.parametrize(
    ("options", "remaining"),
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
def test_transcript_counts_towards_the_token_limit(options: object, remaining: object) -> None:
    fields = {"model": "m"} if options is None else {"model": "m", "options": options}
    request = resume.remaining_request(ujson.dumps(fields), transcript_of("a", "b"))
    assert request is not None
    assert ujson.loads(request).get("options") == remaining


@pytest.mark.parametrize("limit", [1, 2])
def test_no_request_remains_if_the_token_limit_is_reached(limit: int) -> None:
    assert resume.remaining_request(ujson.dumps({"options": {"num_predict": limit}}), transcript_of("a", "b")) is None
