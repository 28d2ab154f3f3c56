"""The scripted Ollama's models: a last message of the assistant in three modes, renderings, raw continuation."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .ollama import Gate, Head, Lines, Mode, NoSuchPrompt, Reset, ScriptedOllama, Text, Words, line, strip_end

MODES: tuple[Mode, ...] = ("open", "closed", "echo")
MARKER = "\ue0000123456789abcdef"
WHOLE = "w0 w1 w2 w3 w4 "


def post(fake: ScriptedOllama, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{fake.url}{path}", json={"model": "m", **body}, trust_env=False, verify=False)


def messages(said: str | None = None, **more: Any) -> list[dict[str, Any]]:
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    return history if said is None else [*history, {"role": "assistant", "content": said, **more}]


def contents(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [json.loads(one)["message"]["content"] for one in response.text.split("\n")[:-1]]


def chat(fake: ScriptedOllama, said: str | None = None, **more: Any) -> list[str]:
    return contents(post(fake, "/api/chat", messages=messages(said), **more))


def render(fake: ScriptedOllama, said: str | None = None, thinking: str = "", **more: Any) -> str:
    asked = messages(said, **({"thinking": thinking} if thinking else {}))
    response = post(fake, "/api/chat", messages=asked, _debug_render_only=True, stream=False, **more)
    rendered: str = response.json()["_debug_info"]["rendered_template"]
    return rendered


def raw(fake: ScriptedOllama, prompt: str, **more: Any) -> str:
    response = post(fake, "/api/generate", prompt=prompt, raw=True, **{"think": False, **more})
    assert response.status_code == 200, response.text
    return "".join(json.loads(one)["response"] for one in response.text.split("\n")[:-1])


def go_on(fake: ScriptedOllama, said: str, thinking: str = "") -> str:
    """Continue the words by a marker behind them, its rendering, and a raw prompt."""
    before, marker, _ = render(fake, said + MARKER, thinking).rpartition(MARKER)
    assert marker and before.endswith(said)
    return raw(fake, before)


def test_open_goes_on_closed_begins_anew_echo_repeats_the_words_first(fake: ScriptedOllama) -> None:
    said = {"open": ["w2 ", "w3 ", "w4 ", ""], "closed": [f"w{number} " for number in range(5)] + [""]}
    said["echo"] = ["w0 w1 w2 ", "w3 ", "w4 ", ""]
    for mode in MODES:
        fake.default = (Words(mode=mode),)
        assert chat(fake, "w0 w1 ") == said[mode]
        assert chat(fake) == said["closed"], "without words of the assistant all are alike"


def test_a_model_that_has_said_everything_says_nothing_more(fake: ScriptedOllama) -> None:
    assert chat(fake, WHOLE) == [""]
    fake.default = (Words(mode="echo"),)
    assert chat(fake, WHOLE) == [WHOLE, ""]


@pytest.mark.parametrize("mode", MODES)
def test_the_rendering_is_continued_raw(fake: ScriptedOllama, mode: Mode) -> None:
    fake.default = (Words(mode=mode),)
    before = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    after = "<|im_end|>\n<|im_start|>assistant\n" if mode == "closed" else ""
    assert render(fake) == before
    assert render(fake, "w0 w1 ") == f"{before}w0 w1 {after}"
    assert go_on(fake, "w0 w1 ") == "w2 w3 w4 "
    assert raw(fake, before + "w0 w1 ", options={"num_predict": 2}) == "w2 w3 "


def test_an_ended_thought_is_rendered_before_the_words(fake: ScriptedOllama) -> None:
    fake.default = (Words(thinks=["Hm. ", "So."]),)
    lines = post(fake, "/api/chat", messages=messages()).text.split("\n")
    assert [json.loads(one)["message"].get("thinking") for one in lines[:3]] == ["Hm. ", "So.", None]
    assert render(fake, "w0 ", "Hm. So.").endswith("assistant\n<think>\nHm. So.\n</think>\n\nw0 ")
    assert go_on(fake, "w0 ", "Hm. So.") == "w1 w2 w3 w4 "
    assert raw(fake, render(fake, "w0 ", "Hm.").replace("Hm.", "Not rendered.")) == "w1 w2 w3 w4 "


def test_renderings_and_descriptions_use_up_no_script(fake: ScriptedOllama) -> None:
    fake.script(Head(), Lines(line("a")), Reset())
    fake.script(Words(mode="closed"))
    assert render(fake, "a").endswith("assistant\na")
    assert post(fake, "/api/show").status_code == 200
    with pytest.raises(httpx.ReadError):
        chat(fake)
    assert fake.arrival(0).wait() is fake.generations[0]
    assert render(fake, "a").endswith("a<|im_end|>\n<|im_start|>assistant\n"), "in the mode of what comes next"
    assert go_on(fake, "w0 ") == "w1 w2 w3 w4 "
    assert fake.arrival(1).wait().json["raw"] is True
    assert fake.arrival(2, "rendering").wait() is fake.renderings[2]
    assert [request.path for request in fake.requests] == [
        *("/api/chat", "/api/show", "/api/chat", "/api/chat", "/api/chat", "/api/generate"),
    ]


def test_an_ollama_that_does_not_render_answers_for_real(fake: ScriptedOllama) -> None:
    fake.model.renders = False
    fake.default = (Words(hold={0: Gate()}),)
    asked = post(
        fake,
        "/api/chat",
        messages=messages("w0 " + MARKER),
        _debug_render_only=True,
        stream=False,
        options={"num_predict": 1},
    )
    assert "_debug_info" not in asked.json() and asked.json()["eval_count"] == 1
    assert not fake.generations and len(fake.renderings) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_renderer_can_change_the_words(fake: ScriptedOllama, mode: Mode) -> None:
    fake.default = (Words(mode=mode),)
    fake.model.changes = strip_end
    assert "assistant\nw0 w1" + MARKER in render(fake, "w0 w1 " + MARKER)


def test_a_beginning_token_stands_before_renderings_and_before_no_raw_prompt() -> None:
    with pytest.raises(NoSuchPrompt, match="read it twice"), ScriptedOllama() as fake:
        fake.model.bos = "<s>"
        assert post(fake, "/api/show").json()["model_info"]["tokenizer.ggml.add_bos_token"] is True
        rendered = render(fake, "w0 ")
        assert rendered.startswith("<s><|im_start|>")
        assert raw(fake, rendered.removeprefix("<s>")) == "w1 w2 w3 w4 "
        with pytest.raises(httpx.RemoteProtocolError):
            raw(fake, rendered)


@pytest.mark.parametrize("prompt", ["Hello", "<|im_start|>user\nhi<|im_end|>\n", "x<|im_start|>assistant\n"])
def test_a_raw_prompt_that_nothing_has_rendered_fails_the_test(prompt: str) -> None:
    with pytest.raises(NoSuchPrompt, match="no template has rendered"), ScriptedOllama() as fake:
        post_refused(fake, prompt)


@pytest.mark.parametrize("model", [Words(mode="closed"), Text(WHOLE, mode="closed")])
def test_a_rendering_that_was_not_cut_where_the_words_end_fails_the_test(model: Words | Text) -> None:
    with pytest.raises(NoSuchPrompt), ScriptedOllama() as fake:
        fake.default = (model,)
        post_refused(fake, render(fake, "w0 "))


def post_refused(fake: ScriptedOllama, prompt: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        raw(fake, prompt)


def test_a_text_that_the_model_would_never_have_said_fails_the_test() -> None:
    with pytest.raises(NoSuchPrompt, match="never"), ScriptedOllama() as fake:
        fake.default = (Text("Once upon a time"),)
        with pytest.raises(httpx.RemoteProtocolError):
            chat(fake, "Once upon upon")


def test_a_text_has_pieces(fake: ScriptedOllama) -> None:
    fake.default = (Text("Once upon a time. "),)
    assert chat(fake) == ["Once", " upon", " a", " time.", " ", ""]
    fake.default = (Text("Once 😀", ["On", "ce ", "😀"]),)
    assert chat(fake) == ["On", "ce ", "😀", ""]
    assert chat(fake, "Onc") == ["e ", "😀", ""]
    assert chat(fake, "Onc", options={"num_predict": 1}) == ["e ", ""]
    for pieces in (["On", "ce"], ["Once 😀", ""]):
        with pytest.raises(ValueError, match="pieces"):
            Text("Once 😀", pieces)


@pytest.mark.parametrize("think", [None, True])
def test_a_continuation_that_begins_like_a_thought_loses_it_unless_think_is_false(
    fake: ScriptedOllama, think: bool | None
) -> None:
    fake.default = (Text("a<think>b"),)
    assert go_on(fake, "a") == "<think>b"
    assert raw(fake, render(fake, "a"), think=think) == "b"


SPELLINGS = ["<|im_start|>", "<|im_end|>", "assistant\n", "<think>", "</think>", "\n\n", " ", "😀", "a", "é", MARKER]


@pytest.mark.parametrize("mode", MODES)
def test_any_text_cut_anywhere_is_continued_raw(mode: Mode) -> None:
    with ScriptedOllama() as fake:

        @given(st.lists(st.sampled_from(SPELLINGS), min_size=1, max_size=12), st.data())
        @settings(max_examples=60, deadline=None, database=None)
        def scenario(parts: list[str], data: st.DataObject) -> None:
            text = "".join(parts)
            cut = data.draw(st.integers(0, len(text)))
            fake.forget()
            fake.default = (Text(text, parts, mode=mode),)
            assert go_on(fake, text[:cut]) == text[cut:]

        scenario()
