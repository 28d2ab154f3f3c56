"""A conversation that outgrows its model's window: cut in blocks, in all processes alike, and said."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.client import Client, Event
from tests.database import eventually, execute, rows
from tests.fakes.ollama import Head, Lines, Model, ScriptedOllama, Text, failure, last_line, line
from tests.program import Program

WINDOW = 400
"""Words that the scripted model holds."""


@pytest.fixture(autouse=True)
def _small_window(chatterd: Program, ollama: ScriptedOllama) -> Iterator[None]:
    """Have a model with a small window. After the test, chatterd does not know it: other tests use the same model."""
    ollama.model = Model(num_ctx=WINDOW)
    ollama.default = (Text("one two three four five"),)
    yield
    ollama.forget()
    with Client(chatterd.url) as client:
        client.ask("Hello")  # loads the usual model


def words(count: int, turn: int = 0) -> str:
    """Return words, other ones in each turn, of which a tokenizer makes about one token each."""
    return " ".join(f"wo{chr(97 + turn % 26)}d{chr(97 + turn // 26)}" for _ in range(count))


def sent(ollama: ScriptedOllama) -> list[list[dict[str, Any]]]:
    """Return the messages of each request that was to be answered."""
    return [request.json["messages"] for request in ollama.generations if request.json["messages"]]


def size(messages: list[dict[str, Any]]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def say(client: Client, *contents: str, **fields: Any) -> list[Event]:
    events = client.ask(*contents, **fields)
    assert [event.name for event in events if event.name == "error"] == []
    return events


def talk(client: Client, turns: int, first: int = 0) -> None:
    for turn in range(first, first + turns):
        say(client, words(30, turn))


def talk_until_cut(client: Client) -> int:
    """Talk until messages have just been left out: now several turns fit. Return the number of turns."""
    turn = 0
    while turn == 0 or not client.history()["context"]["left_out"]:
        talk(client, 1, first=turn)
        turn += 1
    return turn


def blocks(requests: list[list[dict[str, Any]]]) -> list[list[list[dict[str, Any]]]]:
    """Split requests where the beginning of the conversation changes."""
    result = [[requests[0]]]
    for before, after in pairwise(requests):
        if after[: len(before)] == before:
            result[-1].append(after)
        else:
            result.append([after])
    return result


def test_a_conversation_is_cut_in_blocks_and_never_by_ollama(client: Client, ollama: ScriptedOllama) -> None:
    ollama.model = Model(num_ctx=3 * WINDOW)
    say(client, messages=[{"role": "system", "content": "rules"}, {"role": "user", "content": "hi"}])
    talk(client, 60)
    requests = sent(ollama)
    assert all(message[0] == {"role": "system", "content": "rules"} for message in requests)
    assert all(messages[1]["role"] == "user" for messages in requests)
    assert 3 * WINDOW / 2 < max(map(size, requests)) < 3 * WINDOW  # none was refused
    found = blocks(requests)
    assert len(found) >= 4
    for block in found[1:-1]:
        assert len(block) >= 5  # turns in which nothing changes at the beginning
        assert 0.2 < size(block[0]) / (3 * WINDOW) < 0.5  # about two fifths, by estimate, are kept
    assert all(request.json["truncate"] is False and "shift" not in request.json for request in ollama.generations)


def test_a_cut_holds_in_other_processes_and_after_a_crash(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama
) -> None:
    ollama.model = Model(num_ctx=3 * WINDOW)  # so large that the next turns do not fill it again
    programs = [start_chatterd(database_url=database_url) for _ in range(2)]
    with Client(programs[0].url) as client:
        turn = talk_until_cut(client)
        context = client.history()["context"]
        eventually("what was learned is stored", lambda: rows(database_url, "SELECT FROM token_estimates"))
        with Client(programs[1].url, appid=client.appid) as other:
            talk(other, 1, first=turn)
            programs[0].kill()
            assert other.history()["context"]["from"] == context["from"]
            talk(other, 1, first=turn + 1)
    with Client(start_chatterd(database_url=database_url).url, appid=client.appid) as again:
        say(again, "one more")
        assert again.history()["context"]["from"] == context["from"]
    requests = sent(ollama)
    assert requests[-1][: len(requests[-4])] == requests[-4]


@pytest.mark.expects_log("Ollama is unreachable")
def test_a_cut_is_said_while_the_window_is_not_known(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama
) -> None:
    first = start_chatterd(database_url=database_url)
    with Client(first.url) as client:
        talk_until_cut(client)
        context = client.history()["context"]
    first.kill()
    ollama.stop_listening()
    with Client(start_chatterd(database_url=database_url).url, appid=client.appid) as client:
        path = client.begin("hi")
        planned = eventually("it is planned", lambda: client.history()["reply"].get("context"))
        assert (planned["window"], planned["from"], planned["left_out"]) == (
            None,
            context["from"],
            context["left_out"],
        )
        ollama.listen_again()
        client.view(path)
        assert client.history()["context"]["messages"] == len(sent(ollama)[-1])


def test_the_history_says_what_was_sent(client: Client, ollama: ScriptedOllama) -> None:
    say(client, "one two three")
    context = client.history()["context"]
    assert (context["model"], context["from"], context["messages"], context["left_out"]) == ("fake", None, 1, 0)
    assert (context["tokens"], context["estimated"]) == (3 + 5, False)
    talk(client, 14)
    context = client.history()["context"]
    assert context["window"] == WINDOW
    seqs = [message["seq"] for message in client.history(limit=500)["messages"]]
    assert context["from"] in seqs
    assert context["left_out"] == seqs.index(context["from"])
    assert context["messages"] == len(sent(ollama)[-1]) == len(seqs) - 1 - context["left_out"]
    assert context["tokens"] == size(sent(ollama)[-1]) + 5


def test_an_answer_ends_where_the_window_does(client: Client, ollama: ScriptedOllama) -> None:
    talk(client, 2)

    def is_known() -> bool:
        say(client, "hi", options={"num_predict": 7})
        return client.history()["context"]["window"] is not None

    eventually("the window is known", is_known)
    say(client, "hi", options={"temperature": 0})
    of_client, bounded = (request.json["options"] for request in ollama.generations[-2:])
    assert of_client == {"num_predict": 7}
    assert bounded["temperature"] == 0
    assert WINDOW / 2 < bounded["num_predict"] + size(sent(ollama)[-1]) <= WINDOW
    assert "done_reason" not in client.history()["context"]
    ollama.model = Model(num_ctx=WINDOW)
    ollama.default = (Text(words(WINDOW)),)
    say(client, "much")
    assert client.history()["context"]["done_reason"] == "length"


def test_a_client_that_wants_answers_as_long_as_possible_gets_a_share_of_the_window(
    client: Client, ollama: ScriptedOllama
) -> None:
    for turn in range(14):
        say(client, words(30, turn), options={"num_predict": -1, "num_ctx": WINDOW})
    assert client.history()["context"]["left_out"] > 0
    limits = [request.json["options"]["num_predict"] for request in ollama.generations]
    assert limits[-1] > 0
    assert min(limit for limit in limits if limit != -1) > WINDOW / 5  # none is set until the model is known


def test_the_limit_of_the_models_own_file_stays(client: Client, ollama: ScriptedOllama) -> None:
    ollama.model = Model(num_ctx=WINDOW, parameters={"num_predict": 30})
    own = {"model": "a-model-with-a-limit"}

    def is_known() -> bool:
        say(client, "hi", **own)
        return client.history()["context"]["window"] is not None

    eventually("the window is known", is_known)
    assert all(request.json.get("options", {}).get("num_predict") in (None, 30) for request in ollama.generations)
    assert ollama.generations[-1].json["options"] == {"num_predict": 30}
    say(client, "hi", options={"num_predict": -1}, **own)
    assert 30 < ollama.generations[-1].json["options"]["num_predict"] < WINDOW


def test_another_window_or_model_has_a_cut_of_its_own(client: Client, ollama: ScriptedOllama) -> None:
    talk(client, 14)
    whole = len(client.history(limit=500)["messages"])
    assert client.history()["context"]["left_out"] > 0
    say(client, "hi", options={"num_ctx": 4_000})
    assert client.history()["context"] | {"tokens": 0} == {
        "model": "fake",
        "from": None,
        "messages": whole + 1,
        "left_out": 0,
        "tokens": 0,
        "estimated": False,
        "window": 4_000,
    }
    assert len(sent(ollama)[-1]) == whole + 1
    say(client, "hi")
    assert client.history()["context"]["left_out"] > 0
    say(client, "hi", model="a-model-of-no-other-test")
    assert client.history()["context"]["model"] == "a-model-of-no-other-test"
    say(client, "hi")
    assert client.history()["context"]["model"] == "fake"


def test_after_a_deletion_the_conversation_is_cut_anew(client: Client, ollama: ScriptedOllama) -> None:
    talk_until_cut(client)
    first = client.history()["context"]["from"]
    messages = client.history(limit=500)["messages"]
    before = messages[[message["seq"] for message in messages].index(first) - 2]
    assert client.http.delete("/llmchat", params={"appID": client.appid, "from": before["seq"]}).status_code == 204
    say(client, "hi")
    context = client.history()["context"]
    assert (context["from"], context["left_out"]) == (None, 0)
    assert sent(ollama)[-1][0]["content"] == words(30, 0)


def test_a_prompt_that_exceeds_the_window_alone_is_said_and_not_sent_again(
    client: Client, ollama: ScriptedOllama
) -> None:
    talk(client, 3)
    long = words(WINDOW + 50)
    [error] = client.ask(long)
    assert error.json["code"] == "context_exceeded"
    assert "Later prompts are answered without it." in error.json["error"] and f"holds {WINDOW}" in error.json["error"]
    talk(client, 1, first=3)
    assert [message["content"] for message in sent(ollama)[-1] if message["role"] == "user"] == [
        words(30, turn) for turn in range(4)
    ]
    marked = [message["content"] for message in client.history()["messages"] if message.get("left_out")]
    assert marked == [long]


def test_a_prompt_that_exceeded_the_window_is_answered_with_a_larger_one_on_request(
    client: Client, ollama: ScriptedOllama
) -> None:
    talk(client, 3)
    before = client.messages()
    long = words(WINDOW + 50)
    client.ask(long)
    [error] = client.ask(messages=[])  # asks again: what was said before is not continued
    assert error.json["code"] == "context_exceeded"
    assert client.messages() == [*before, ("user", long)]
    say(client, messages=[], options={"num_ctx": 4 * WINDOW})
    assert client.messages() == [*before, ("user", long), ("assistant", "one two three four five")]
    assert sent(ollama)[-1][-1]["content"] == long
    assert not any(message.get("left_out") for message in client.history()["messages"])


def test_a_client_that_wants_to_be_asked_is_asked(client: Client, ollama: ScriptedOllama) -> None:
    talk(client, 7)
    count = len(ollama.generations)
    turn = 7
    while (events := client.ask(words(30, turn), context_full="stop"))[-1].name != "error":
        turn += 1
    assert events[-1].json["code"] == "context_full"
    assert len(ollama.generations) == count + turn - 7
    assert all("context_full" not in request.json for request in ollama.generations)
    say(client, words(30, turn), context_full="cut")
    assert client.history()["context"]["left_out"] > 0
    assert [content for _, content in client.messages()].count(words(30, turn)) == 1


def test_a_refused_prompt_corrects_the_estimate_and_nothing_of_it_is_shown(
    client: Client, ollama: ScriptedOllama
) -> None:
    talk(client, 2)
    ollama.script(
        failure(
            400,
            '{"error":{"code":400,"message":"request (900 tokens) exceeds the available context size (400 tokens), try '
            'increasing it","type":"exceed_context_size_error","n_prompt_tokens":900,"n_ctx":400}}',
        )
    )
    say(client, "hi")
    assert len(sent(ollama)[-1]) < len(sent(ollama)[-2])
    assert client.history()["context"]["left_out"] > 0


def test_a_prompt_that_is_refused_again_and_again_ends(client: Client, ollama: ScriptedOllama) -> None:
    talk(client, 2)
    refusal = failure(400, "the input length exceeds the context length")
    for _ in range(3):
        ollama.script(refusal)
    [error] = client.ask("hi")
    assert "window" in error.json["error"]
    say(client, "hi again")


def test_nothing_is_left_out_because_another_program_has_loaded_the_model_with_a_small_window(
    client: Client, ollama: ScriptedOllama
) -> None:
    ollama.model = Model(num_ctx=32_000)
    model, small = "model-of-two-programs", {"options": {"num_ctx": 512}, "messages": [], "stream": False}
    httpx.post(f"{ollama.url}/api/chat", json={"model": model, **small}, trust_env=False)
    say(client, words(9_000), model=model)  # more than the smallest default: the window is asked for
    assert client.history()["context"]["window"] == 32_000
    assert ollama.runner.loaded == (model, 32_000, None)


def test_an_answer_to_a_prompt_that_seemed_too_long_is_not_cut_short(client: Client, ollama: ScriptedOllama) -> None:
    answer = words(40)
    ollama.default = (Text(answer),)
    model = "model-of-long-words"  # of whose tokenizer nothing was learned
    say(client, "hi", model=model, options={"num_ctx": WINDOW})
    eventually("the model is known", lambda: any(request.path == "/api/show" for request in ollama.requests))
    say(client, "Llanfairpwllgwyngyll-23-18-7 " * 40, model=model, options={"num_ctx": WINDOW})  # 40 for this model
    assert client.messages()[-1] == ("assistant", answer)
    assert ollama.generations[-1].json["options"]["num_predict"] <= WINDOW / 2


def test_a_call_and_its_result_are_never_separated(client: Client, ollama: ScriptedOllama) -> None:
    for turn in range(12):
        call = {"function": {"name": "look", "arguments": {"b": turn, "a": 1}}}
        say(
            client,
            messages=[
                {"role": "user", "content": words(15, turn)},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": words(20), "tool_name": "look"},
            ],
        )
    assert client.history()["context"]["left_out"] > 0
    for messages in sent(ollama):
        assert messages[0]["role"] == "user"


def test_a_result_that_is_too_long_leaves_the_question_and_the_call_for_another_one(
    client: Client, ollama: ScriptedOllama
) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {"a": 1}}}]}
    ollama.script(Head(), Lines(line(message={"tool_calls": call["tool_calls"]}), last_line()))
    say(client, "question")
    [error] = client.ask(messages=[{"role": "tool", "content": words(WINDOW + 50), "tool_name": "look"}])
    assert error.json["code"] == "context_exceeded"
    result = {"role": "tool", "content": "short", "tool_name": "look"}
    say(client, messages=[result])
    assert sent(ollama)[-1] == [{"role": "user", "content": "question"}, call, result]
    assert [message["role"] for message in client.history()["messages"] if message.get("left_out")] == ["tool"]


def test_what_a_client_lets_ollama_cut_is_sent_whole(client: Client, ollama: ScriptedOllama) -> None:
    talk(client, 14)
    whole = len(client.history(limit=500)["messages"])
    say(client, "hi", truncate=True)
    assert len(sent(ollama)[-1]) == whole + 1
    assert ollama.generations[-1].json["truncate"] is True
    assert "num_predict" not in ollama.generations[-1].json.get("options", {})


def test_a_continued_answer_is_cut_like_a_prompt(client: Client, ollama: ScriptedOllama) -> None:
    talk(client, 8)
    ollama.default = (Text(words(30)),)
    say(client, words(30, 99), options={"num_predict": 10})
    before = client.history()["context"]
    say(client, messages=[])
    assert client.messages()[-1] == ("assistant", words(30))
    assert client.history()["context"]["tokens"] <= WINDOW
    assert client.history()["context"]["messages"] <= before["messages"] + 1


def test_a_refused_prompt_leaves_the_cut_as_it_was(client: Client, ollama: ScriptedOllama) -> None:
    turn = talk_until_cut(client)
    first = client.history()["context"]["from"]
    [error] = client.ask(words(WINDOW * 3 // 2))  # by estimate, too, but Ollama may count otherwise
    assert error.json["code"] == "context_exceeded"
    before = sent(ollama)[-2]
    talk(client, 1, first=turn)
    assert client.history()["context"]["from"] == first
    assert sent(ollama)[-1][: len(before)] == before


def test_a_prompt_is_not_left_out_because_of_tools_that_are_too_long(client: Client, ollama: ScriptedOllama) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": words(20 * WINDOW), "parameters": {}}}]
    [error] = client.ask("question", tools=tools, options={"num_ctx": WINDOW})
    assert error.json["code"] == "context_exceeded"
    assert error.json["error"].startswith("The tools and the format of this request have about ")
    say(client, "and?")
    assert [message["content"] for message in sent(ollama)[-1]] == ["question", "and?"]


def test_an_answer_that_outgrows_the_window_is_continued_up_to_it(client: Client, ollama: ScriptedOllama) -> None:
    answer = words(5 * WINDOW)
    ollama.default = (Text(answer),)
    say(client, "question", options={"num_ctx": WINDOW, "num_predict": 100})
    while (event := client.ask(messages=[], options={"num_ctx": WINDOW})[-1]).name != "error":
        assert event.json["done_reason"] == "length"
    assert event.json["code"] == "context_exceeded"
    assert event.json["error"].startswith("This answer and its prompt have about ")
    assert answer.startswith(client.messages()[-1][1].strip()) and len(client.messages()) == 2
    ollama.default = (Text("yes"),)
    say(client, "and?", options={"num_ctx": WINDOW})


def test_a_client_is_not_asked_about_a_prompt_that_fits_into_no_window(client: Client, ollama: ScriptedOllama) -> None:
    talk(client, 3)
    [error] = client.ask(words(20 * WINDOW), context_full="stop")
    assert error.json["code"] == "context_exceeded"


@pytest.mark.parametrize("length", [WINDOW + 50, 20 * WINDOW], ids=["by Ollama's count", "by estimate"])
def test_the_error_of_a_prompt_that_is_too_long_has_both_figures(
    client: Client, ollama: ScriptedOllama, length: int
) -> None:
    talk(client, 2)
    [error] = client.ask(words(length))
    assert error.json["code"] == "context_exceeded"
    figures = re.search(r"about ([\d,]+) tokens, and the window of fake holds ([\d,]+)", error.json["error"])
    assert figures and int(figures[2].replace(",", "")) == WINDOW
    assert 0.7 * length < int(figures[1].replace(",", "")) < 1.5 * length


@pytest.mark.parametrize("value", ["ask", "", None, True, ["cut"]])
def test_another_choice_for_a_full_window_is_rejected(client: Client, value: object) -> None:
    response = client.http.post("/llmchat", json=client.body("hi", context_full=value))
    assert response.status_code == 422
    assert response.json()["error"] == 'context_full must be "cut" or "stop".'


def test_system_messages_that_fill_the_window_are_left_out_and_the_rest_is_cut_in_blocks(
    client: Client, ollama: ScriptedOllama
) -> None:
    ollama.model = Model(num_ctx=3 * WINDOW)
    rules = [{"role": "system", "content": words(WINDOW, turn)} for turn in (100, 101)]
    say(client, messages=[*rules, {"role": "user", "content": "hi"}])
    talk(client, 40)
    requests = sent(ollama)[-30:]
    assert all(messages[0] == rules[1] and rules[0] not in messages for messages in requests)
    assert len(blocks(requests)) <= 6
    context = client.history()["context"]
    assert context["system_left_out"] == 1 and context["left_out"] > 0


def test_a_reply_whose_cut_the_database_refuses_ends(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama
) -> None:
    with Client(start_chatterd(database_url=database_url).url) as client:
        execute(database_url, "ALTER TABLE context_cuts ADD CHECK (context_window > 1000000)")
        turn = 0
        while (events := client.ask(words(30, turn)))[-1].name != "error":
            turn += 1
        assert "database" in events[-1].json["error"] and "again" not in events[-1].json["error"]
