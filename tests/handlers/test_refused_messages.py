"""A message that Ollama refuses: the error names it, and later prompts of the conversation are answered."""

import base64
import random
from typing import Any

import pytest

from tests.client import Client, Event
from tests.database import reply_row
from tests.fakes.ollama import Death, Gate, Head, Lines, RunnerDies, ScriptedOllama, failure
from tests.program import Program

BROKEN = "%%%"
SEE = "What is this?"
MULTIMODAL = "Multimodal data provided, but model does not support multimodal requests."


def image(number: int = 0) -> str:
    """Return 1.5 kB in base64: enough to count as an image."""
    return base64.b64encode(random.Random(number).randbytes(1_125)).decode()


def send(client: Client, *messages: dict[str, Any], **fields: Any) -> list[Event]:
    path = client.begin(messages=list(messages), **fields)
    return client.view(path)


def user(content: str, *images: str) -> dict[str, Any]:
    return {"role": "user", "content": content} | ({"images": list(images)} if images else {})


def error_of(events: list[Event]) -> str:
    [event] = events
    assert event.name == "error"
    return str(event.json["error"])


def sent(ollama: ScriptedOllama) -> list[Any]:
    return [request.json["messages"] for request in ollama.generations]


def test_the_error_names_the_message_and_how_to_go_on(client: Client, ollama: ScriptedOllama) -> None:
    error = error_of(send(client, user(f"{SEE} {'word ' * 20}", BROKEN)))
    assert error == (
        "illegal base64 data at input byte 0 (Ollama answered 400 Bad Request). If the images of the message "
        "'What is this? word word word word word w…' are the reason, send it again without, or choose another model. "
        "Later prompts are answered without the images."
    )
    assert len(ollama.generations) == 1


def test_a_broken_image_does_not_refuse_later_prompts(client: Client, ollama: ScriptedOllama) -> None:
    error_of(send(client, user(SEE, BROKEN)))
    for number in range(2):
        assert client.ask(f"and now? {number}", options={"num_predict": 1})[-1].json["done"]
    refused, first_try, first, second_try, second = sent(ollama)
    assert refused == [user(SEE, BROKEN)]
    assert first_try == [user(SEE, BROKEN), user("and now? 0")]
    assert first == [user(SEE), user("and now? 0")]
    assert second_try[0] == user(SEE, BROKEN) and second == [user(SEE), *second_try[1:]]
    assert client.history()["messages"][0]["images"] == [BROKEN]  # kept as it was sent


@pytest.mark.parametrize("role", ["assistant", "user", "tool", "system"])
@pytest.mark.parametrize("field", ["tool_calls", "images", "thinking"])
def test_a_malformed_field_does_not_refuse_later_prompts(
    client: Client, ollama: ScriptedOllama, role: str, field: str
) -> None:
    error = error_of(send(client, {"role": role, "content": "a", field: 7}, user("b")))
    assert "json: cannot unmarshal" in error and f"If the {field} of the message 'a' are the reason" in error
    assert client.ask("c")[-1].json["done"]
    assert sent(ollama)[-1] == [{"role": role, "content": "a"}, user("b"), user("c")]


def test_a_model_that_sees_no_images_answers_a_conversation_with_some(client: Client, ollama: ScriptedOllama) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1}}}]}
    result = {"role": "tool", "content": "3", "tool_name": "f"}
    send(client, user(SEE, image()), call, result, options={"num_predict": 1})
    ollama.model.capabilities = ("completion", "tools")
    assert client.ask("and now?", options={"num_predict": 1})[-1].json["done"]
    assert sent(ollama)[-1][:3] == [user(SEE), call, result]  # only the images are left out
    ollama.model.capabilities = ("completion", "tools", "vision")
    assert client.ask("and again?")[-1].json["done"]
    assert sent(ollama)[-1][:3] == [user(SEE, image()), call, result]


def test_an_image_for_a_model_that_sees_none_is_refused_with_a_sentence(client: Client, ollama: ScriptedOllama) -> None:
    ollama.model.capabilities = ("completion",)
    error = error_of(send(client, user(SEE, image())))
    assert error.startswith(MULTIMODAL) and f"the images of the message '{SEE}'" in error
    events = send(client)  # try again: the conversation as it stands
    assert error_of(events) == error
    ollama.model.capabilities = ("completion", "vision")
    assert send(client)[-1].json["done"]
    assert sent(ollama)[-1] == [user(SEE, image())]


def test_a_fault_of_the_request_is_reported_as_it_is(client: Client, ollama: ScriptedOllama) -> None:
    ollama.model.capabilities = ("completion",)
    error = error_of(send(client, user("hi"), think=True))
    assert error == "'fake' does not support thinking (Ollama answered 400 Bad Request)"
    assert len(ollama.generations) == 1


def test_a_prompt_that_exceeds_the_window_is_cut_instead_of_losing_its_images(
    client: Client, ollama: ScriptedOllama
) -> None:
    send(client, user(SEE, image()), options={"num_predict": 1})
    ollama.script(failure(400, "the input length exceeds the context length"))
    assert client.ask("and now?")[-1].json["done"]
    first, refused, cut = sent(ollama)
    assert refused[0] == first[0] and cut == [user("and now?")]


def test_a_refusal_in_the_first_line_or_with_500_is_one_too(client: Client, ollama: ScriptedOllama) -> None:
    text = "Failed to create new sequence: failed to process inputs: image: unknown format"
    send(client, user(SEE, image()), options={"num_predict": 1})
    ollama.script(failure(500, text))
    assert client.ask("2", options={"num_predict": 1})[-1].json["done"]
    assert sent(ollama)[-1][0] == user(SEE)
    context = client.history()["context"]
    assert context["images_left_out"] == 1 and context["tokens"] < 100  # an image counts as several hundred
    ollama.script(Head(), Lines(b'{"error":"%s"}' % text.encode()))
    events = client.ask("3", options={"num_predict": 1})
    assert events[-1].json["done"] and all(event.name != "error" for event in events)
    for _ in range(2):  # with the earlier image and without
        ollama.script(Head(), Lines(b'{"error":"%s"}' % text.encode()))
    assert text in error_of(send(client, user("4", image(4))))


def test_a_reply_is_continued_without_what_was_left_out(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    error_of(send(client, user(SEE, BROKEN)))
    ollama.deaths = {2: Death(3, RunnerDies())}  # generation 1 is refused, 2 is sent without the image
    path = client.begin("and now?")
    assert "".join(event.json["message"]["content"] for event in client.view(path)) == "w0 w1 w2 w3 w4 "
    assert reply_row(session_database_url, path)["fields_after"] == client.history()["messages"][0]["seq"]
    assert ollama.renderings[-1].json["messages"][:2] == [user(SEE), user("and now?")]


def test_a_reply_may_be_stopped_while_ollama_refuses(client: Client, ollama: ScriptedOllama) -> None:
    error_of(send(client, user(SEE, BROKEN)))
    gate = Gate()
    ollama.script(gate, failure(400, "illegal base64 data at input byte 0"))
    path = client.begin("and now?")
    gate.reached.wait()
    assert client.http.delete(path).status_code == 202
    gate.open()
    assert client.view(path)[-1].json["done_reason"] == "stopped"


def test_the_same_prompt_sent_again_after_a_failure_is_there_once(client: Client, ollama: ScriptedOllama) -> None:
    client.ask("before", options={"num_predict": 1})
    for _ in range(3):
        ollama.script(failure(404, "model 'fake' not found"))
        error_of(client.ask("hi"))
    assert client.messages()[2:] == [("user", "hi")]
    assert client.ask("hi", options={"num_predict": 1})[-1].json["done"]
    assert client.messages() == [("user", "before"), ("assistant", "w0 "), ("user", "hi"), ("assistant", "w0 ")]
    assert [message["content"] for message in sent(ollama)[-1]] == ["before", "w0 ", "hi"]
    client.ask("hi")  # it was answered: another question
    assert client.messages()[4] == ("user", "hi")


def test_a_failed_reply_can_be_followed_after_its_prompt_was_replaced(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(failure(404, "model 'fake' not found"))
    path = client.begin("hi", headers={"Idempotency-Key": "k"})
    events = client.view(path)
    client.ask("hi")
    assert client.view(path) == events
    assert client.begin("hi", headers={"Idempotency-Key": "k"}) == path


@pytest.mark.parametrize(
    "budget", [1_600, pytest.param(0, marks=pytest.mark.extended), pytest.param(10_000, marks=pytest.mark.extended)]
)
def test_images_beyond_their_budget_are_left_out_and_it_is_said(
    start_chatterd: Any, database_url: str, ollama: ScriptedOllama, budget: int
) -> None:
    program: Program = start_chatterd(database_url=database_url, context_bytes=1_000, context_image_bytes=budget)
    with Client(program.url) as client:
        first = [user("words"), user("one", image(1)), user("two", image(2)), user("three", image(3))]
        send(client, *first, options={"num_predict": 1})
        assert sent(ollama)[0] == first  # a prompt's own images are always sent
        client.ask("four", options={"num_predict": 1})
        left_out = {0: 3, 1_600: 1, 10_000: 0}[budget]
        contexts = [user(message["content"]) if 0 < n <= left_out else message for n, message in enumerate(first)]
        assert sent(ollama)[1] == [*contexts, {"role": "assistant", "content": "w0 "}, user("four")]
        if left_out:
            program.wait_log(f"{left_out} earlier messages are sent without their images")
        else:
            assert "without their images" not in program.log
