"""The request for a summary fits into the window; what is no summary is not taken for one."""

import json

import pytest

from db.context.summaries import MAX_CHARACTERS, Summary, Unsummarised
from relay.summary.request import MAX_TOKENS, NoSummary, read_summary, summary_body
from relay.window.text_counts import count_text
from relay.window.tokens import TokenEstimator

REQUEST = '{"model":"m","stream":true,"tools":[{}],"format":"json","options":{"num_ctx":2048,"temperature":0.5}}'


def content(messages: list[tuple[str, str]], window: int, earlier: str = "") -> str:
    summary = Summary(1, 1, earlier, False) if earlier else None
    body = json.loads(summary_body(Unsummarised("app", REQUEST, summary, 9, messages), window, TokenEstimator()))
    assert body.keys() == {"model", "options", "messages", "stream", "truncate", "think"}
    assert body["options"] == {"num_ctx": 2048, "temperature": 0.5, "num_predict": min(MAX_TOKENS, window // 8)}
    [message] = body["messages"]
    assert TokenEstimator().estimate(count_text(message["content"])) + body["options"]["num_predict"] < window
    return str(message["content"])


@pytest.mark.parametrize("window", [300, 2_048, 131_072])
def test_the_newest_messages_that_fit_are_summarised(window: int) -> None:
    messages = [("user", f"message {number} " + "word " * 40) for number in range(5_000)]
    found = content(messages, window, earlier="what was before")
    assert "Summary of what was before:\nwhat was before\n\nUser: message" in found
    assert "User: message 4999 word" in found and "message 0 " not in found


def test_a_message_that_does_not_fit_is_summarised_by_its_beginning() -> None:
    found = content([("user", "first"), ("assistant", "begin " + "word " * 10_000)], 1_000)
    assert found.startswith("Assistant: begin word word") and "first" not in found


def test_there_is_no_summary_for_a_window_that_holds_none() -> None:
    with pytest.raises(NoSummary):
        content([("user", "hi")], 60)


def answer(text: str, done: bool = True) -> bytes:
    return json.dumps({"model": "m", "message": {"role": "assistant", "content": text}, "done": done}).encode()


def test_a_thought_is_no_part_of_a_summary() -> None:
    assert read_summary(200, answer("<think>\nHm.\n</think>\n\n They met.\n")) == "They met."
    assert read_summary(200, answer("a\0b")) == "a\ufffdb"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, answer("text")),
        (200, answer("text", done=False)),
        (200, answer(" \n")),
        (200, answer("<think>only</think>")),
        (200, answer("x" * (MAX_CHARACTERS + 1))),
        (200, b'{"error":"no"}'),
        (200, b"<html>"),
        (200, b""),
        (200, b'{"message":{"content":"\xff"},"done":true}'),
        (200, b'{"message":{"content":7},"done":true}'),
    ],
)
def test_an_absurd_answer_is_no_summary(status: int, body: bytes) -> None:
    with pytest.raises(NoSummary):
        read_summary(status, body)
