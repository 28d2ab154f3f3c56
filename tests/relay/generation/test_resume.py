"""Continuing a reply: whether it is continuable, what is sent, the remaining token limit."""

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from db.messages import Message
from relay.generation import resume
from relay.generation.resume import SentRequest
from relay.generation.transcript import Transcript
from relay.ollama.chat_line import ChatLine
from tests.fakes.ollama import line

HI = Message("user", "hi")


def transcript_of(*contents: str, thinking: str = "", tool_calls: bool = False) -> Transcript:
    transcript = Transcript()
    transcript.add(ChatLine(thinking=thinking, tool_calls=[Raw(b"{}")] if tool_calls else []))
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
    ("request_fields", "transcript", "images", "continuable"),
    [
        ({}, transcript_of("a"), False, True),
        ({"format": None}, transcript_of("a"), False, True),
        ({"format": ""}, transcript_of("a"), False, True),
        ({}, transcript_of("a", thinking="hm"), False, True),
        ({"format": "json"}, transcript_of("{"), False, False),
        ({"format": {"type": "object"}}, transcript_of("{"), False, False),
        ({}, transcript_of("a"), True, False),
        ({}, transcript_of("a", tool_calls=True), False, False),
    ],
)
def test_tool_calls_formats_and_pictures_are_not_continuable(
    request_fields: dict[str, object], transcript: Transcript, images: bool, continuable: bool
) -> None:
    message = Message("user", "hi", '{"images":["aGk="]}') if images else HI
    sent = SentRequest(ujson.dumps({"model": "m"} | request_fields), [message])
    assert (resume.why_not_continuable(sent, transcript) is None) is continuable


@pytest.mark.parametrize("empty", ["null", "[]", "[ ]"])
def test_empty_fields_keep_nobody_from_continuing(empty: str) -> None:
    request = f'{{"model":"m","format":null,"tools":{empty}}}'
    sent = SentRequest(request, [Message("user", "hi", f'{{"images":{empty}}}')])
    assert resume.why_not_continuable(sent, transcript_of("a")) is None
    assert not resume.has_tools(request)


def test_transcript_is_the_last_message_with_its_thought() -> None:
    sent = SentRequest('{"model":"m"}', [HI])
    body = ujson.loads(resume.chat_to_continue(sent.request, sent, transcript_of("a ", "b", thinking="hm"), "MARK"))
    assert body["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "a bMARK", "thinking": "hm"},
    ]


def test_transcript_is_appended_to_the_message_that_it_continues() -> None:
    sent = SentRequest('{"model":"m"}', [HI], Message("assistant", "a ", '{"thinking":"hm"}'))
    body = ujson.loads(resume.chat_to_continue(sent.request, sent, transcript_of("b ")))
    assert body["messages"][-1] == {"role": "assistant", "content": "a b ", "thinking": "hm"}
    assert sent.words(transcript_of()) == "a "


def test_rendering_generates_at_most_one_token_and_unloads_nothing() -> None:
    body = b'{"model":"m","messages":[],"keep_alive":0,"think":true,"options":{"seed":1,"num_predict":7},"stream":true}'
    assert ujson.loads(resume.rendering_body(body, shorten=False)) == {
        "model": "m",
        "messages": [],
        "think": True,
        "options": {"seed": 1, "num_predict": 1},
        "stream": False,
        "truncate": False,
        "_debug_render_only": True,
    }


def test_raw_request_has_the_fields_that_both_paths_know() -> None:
    request = '{"model":"m","think":true,"keep_alive":"1h","options":{"seed":1},"stream":false,"logprobs":true}'
    assert ujson.loads(resume.raw_body(request, "prompt")) == {
        "model": "m",
        "keep_alive": "1h",
        "options": {"seed": 1},
        "logprobs": True,
        "prompt": "prompt",
        "raw": True,
        "think": False,
        "truncate": False,
        "stream": False,
    }


@given(st.text(), st.text(), st.text())
def test_prompt_is_cut_behind_the_words(before: str, words: str, after: str) -> None:
    marker = resume.new_marker()
    assert resume.cut_at_marker(before + words + marker + after, words, marker) == before + words


@pytest.mark.parametrize("rendering", ["<user>hi<assistant>a", "<user>hi<assistant>aMARK", "no marker"])
def test_prompt_of_a_template_that_changes_the_words_is_not_cut(rendering: str) -> None:
    assert resume.cut_at_marker(rendering, "a ", "MARK") is None


@pytest.mark.parametrize(
    ("model_info", "prompt"),
    [
        ({"tokenizer.ggml.add_bos_token": True}, "hi"),
        ({"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.model": "llama"}, "<s>hi"),
        ({"tokenizer.ggml.model": "llama"}, "hi"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe"}, "hi"),
        ({"tokenizer.ggml.model": "gpt2"}, "<s>hi"),
        ({}, "<s>hi"),
    ],
)
def test_token_that_the_tokenizer_adds_is_removed(model_info: dict[str, object], prompt: str) -> None:
    assert resume.begins_with_bos("<s>hi")
    assert resume.without_bos("<s>hi", model_info) == prompt


@pytest.mark.parametrize(
    ("options", "remaining"),
    [
        (None, None),
        ({}, {}),
        ({"num_predict": 5, "seed": 1}, {"num_predict": 3, "seed": 1}),
        ({"num_predict": 5.5}, {"num_predict": 3}),
        ({"num_predict": -1}, {"num_predict": -1}),
        ({"num_predict": None}, {"num_predict": None}),
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
