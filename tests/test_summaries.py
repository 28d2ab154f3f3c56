"""``--summarize``: what a cut leaves out is summarised after the reply, sent, shown and edited."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.client import Client
from tests.database import eventually, rows
from tests.fakes.ollama import Answer, Gate, Model, Reset, RunnerDies, ScriptedOllama, Speaker, Step, Text, failure
from tests.handlers.test_openapi import check_response
from tests.program import Program

WINDOW = 400
"""Words that the scripted model holds."""

SUMMARY = "They spoke of many words."
SENT = {"role": "system", "content": f"Summary of the earlier part of this conversation:\n{SUMMARY}"}


@dataclass(eq=False)
class Summarises(Step):
    """Answers requests for a summary, the only ones that are not streamed, otherwise than prompts."""

    summary: Step
    reply: Step

    async def play(self, answer: Answer) -> None:
        await (self.summary if asks_for_summary(answer.request.json) else self.reply).play(answer)


@dataclass(eq=False)
class HoldsSummary(Step):
    """Holds a summary until the gate is open, then says it."""

    gate: Gate
    summary: Speaker

    async def play(self, answer: Answer) -> None:
        await self.gate.play(answer)
        await self.summary.play(answer)


def asks_for_summary(request: dict[str, Any]) -> bool:
    return request.get("stream") is False


def summarises(ollama: ScriptedOllama, summary: Step) -> None:
    ollama.default = (Summarises(summary, Text("one two three four five")),)


@pytest.fixture(autouse=True)
def _small_window(ollama: ScriptedOllama) -> None:
    ollama.model = Model(num_ctx=WINDOW)
    summarises(ollama, Text(SUMMARY))


@pytest.fixture(scope="module")
def shared_database(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def summarizing(_session_ollama: ScriptedOllama, shared_database: str) -> Iterator[Program]:
    settings = {"database_url": shared_database, "ollama_host": _session_ollama.url, "embedded_model": False}
    with Program(**settings, summarize=True) as program:
        yield program
        assert program.alarms([]) == []


@pytest.fixture
def client(summarizing: Program) -> Iterator[Client]:
    with Client(summarizing.url) as client:
        yield client


def stored(client: Client, database_url: str) -> int:
    """Return the number of summaries of the conversation that are kept."""
    return len(rows(database_url, "SELECT FROM context_summaries WHERE appid = $1", client.appid))


def words(count: int, turn: int = 0) -> str:
    """Return words, other ones in each turn, of which a tokenizer makes about one token each."""
    return " ".join(f"wo{chr(97 + turn % 26)}d{chr(97 + turn // 26)}" for _ in range(count))


def prompts(ollama: ScriptedOllama) -> list[list[dict[str, Any]]]:
    """Return the messages of each prompt's request."""
    chats = [request.json for request in ollama.generations if request.path == "/api/chat"]
    return [request["messages"] for request in chats if not asks_for_summary(request)]


def asked(ollama: ScriptedOllama) -> list[dict[str, Any]]:
    """Return the requests for summaries."""
    return [request.json for request in ollama.generations if asks_for_summary(request.json)]


def say(client: Client, turn: int, **fields: Any) -> None:
    assert [event for event in client.ask(words(30, turn), **fields) if event.name == "error"] == []


def talk_until_cut(client: Client, first: int = 0) -> int:
    """Talk until the conversation has just been cut; return the number of the next turn."""
    before = (client.history()["context"] or {"left_out": 0})["left_out"]
    turn = first
    while turn == first or client.history()["context"]["left_out"] == before:
        say(client, turn)
        turn += 1
    return turn


def summary_of(client: Client, until: int = 0) -> dict[str, Any]:
    """Wait for a summary up to a message after ``until``."""

    def found() -> Any:
        summary = client.history()["summary"]
        return summary and summary["until"] > until and summary

    summary: dict[str, Any] = eventually("the conversation has a summary", found)
    check_response("getConversation", client.http.get("/llmchat", params={"appID": client.appid}))
    return summary


def edit(client: Client, until: int, text: str) -> int:
    response = client.http.put("/summary", params={"appID": client.appid, "until": until}, json={"text": text})
    check_response("putSummary", response)
    return response.status_code


def test_what_is_left_out_is_summarised_once_and_sent(client: Client, ollama: ScriptedOllama) -> None:
    client.http.post("/llmprep", json=client.body(messages=[{"role": "system", "content": "rules"}]))
    turn = talk_until_cut(client, 0)
    context = client.history()["context"]
    assert "summary" not in context
    assert SENT not in prompts(ollama)[-1]
    summary = summary_of(client)
    page = client.history(limit=500)["messages"]
    left_out = [message for message in page if message["seq"] < context["from"] and message["role"] != "system"]
    assert summary == {"text": SUMMARY, "until": left_out[-1]["seq"], "edited": False}

    [request] = asked(ollama)
    [message] = request["messages"]
    assert "User: " + words(30, 0) in message["content"] and "Assistant: one two" in message["content"]
    assert words(30, turn - 1) not in message["content"] and "rules" not in message["content"]
    assert request["options"]["num_predict"] == WINDOW // 8
    assert (request["truncate"], request["think"]) == (False, False)

    say(client, turn)
    say(client, turn + 1)
    *_, first, second = prompts(ollama)
    assert first[:2] == [{"role": "system", "content": "rules"}, SENT]
    assert second[: len(first)] == first  # nothing changes at the beginning
    assert len(first) == client.history()["context"]["messages"] - 2
    assert client.history()["context"]["summary"] is True
    assert client.history()["context"]["tokens"] == sum(len(m["content"].split()) for m in second) + 5
    assert len(asked(ollama)) == 1


def test_the_next_summary_contains_the_one_before(client: Client, ollama: ScriptedOllama) -> None:
    turn = talk_until_cut(client)
    first = summary_of(client)
    talk_until_cut(client, turn)
    second = summary_of(client, first["until"])
    request = asked(ollama)[-1]["messages"][0]["content"]
    assert SUMMARY in request and words(30, 0) not in request
    assert client.history()["context"]["summary"] is True
    assert second["text"] == SUMMARY


def test_all_requests_have_the_same_options_of_the_runner(client: Client, ollama: ScriptedOllama) -> None:
    turn = 0
    options = {"num_ctx": WINDOW - 50, "num_thread": 2, "stop": ["x"]}
    while not asked(ollama) and turn < 30:
        say(client, turn, options=options, keep_alive="3m", think=True)
        turn += 1
        if client.history()["context"]["left_out"]:
            summary_of(client)
    [request] = asked(ollama)
    assert request["options"] == {"num_ctx": WINDOW - 50, "num_thread": 2, "num_predict": (WINDOW - 50) // 8}
    assert request["keep_alive"] == "3m"


def test_an_edited_summary_is_sent_and_a_removed_one_is_not(client: Client, ollama: ScriptedOllama) -> None:
    turn = talk_until_cut(client)
    until = summary_of(client)["until"]
    assert edit(client, until, "Their words.") == 204
    assert client.history()["summary"] == {"text": "Their words.", "until": until, "edited": True}
    say(client, turn)
    assert prompts(ollama)[-1][0]["content"].endswith("\nTheir words.")
    assert edit(client, until, " ") == 204
    assert client.history()["summary"] is None
    say(client, turn + 1)
    assert prompts(ollama)[-1][0]["role"] == "user"
    assert edit(client, until - 1, "x") == edit(client, until + 1, "x") == 404
    assert edit(client, until, "x" * 4_001) == 422
    assert len(asked(ollama)) == 1


def test_a_summary_is_gone_with_the_messages_that_it_summarises(
    client: Client, ollama: ScriptedOllama, shared_database: str
) -> None:
    turn = talk_until_cut(client)
    until = summary_of(client)["until"]
    say(client, turn)
    assert stored(client, shared_database) == 1
    query = {"appID": client.appid, "from": until}
    assert client.http.delete("/llmchat", params=query).status_code == 204
    assert client.history()["summary"] is None
    say(client, turn)
    assert SENT not in prompts(ollama)[-1]
    assert stored(client, shared_database) == 0


@pytest.mark.parametrize("end", ["whole", "replaced"])
def test_nothing_of_a_summary_is_kept_of_a_deleted_conversation(client: Client, shared_database: str, end: str) -> None:
    talk_until_cut(client)
    summary_of(client)
    if end == "whole":
        client.http.delete("/llmchat", params={"appID": client.appid})
    else:
        client.http.post("/llmprep", json=client.body("hi"))
    assert client.history()["summary"] is None
    assert stored(client, shared_database) == 0


def test_a_summary_of_messages_that_were_deleted_meanwhile_is_not_kept(
    client: Client, ollama: ScriptedOllama, shared_database: str, summarizing: Program
) -> None:
    gate = Gate("the summary")
    summarises(ollama, HoldsSummary(gate, Text(SUMMARY)))
    talk_until_cut(client)
    gate.reached.wait()
    client.http.delete("/llmchat", params={"appID": client.appid})
    gate.open()
    ollama.generations[-1].answered.wait()
    with Client(summarizing.url) as other:  # summaries are made one at a time
        talk_until_cut(other)
        summary_of(other)
    assert stored(client, shared_database) == 0


@pytest.mark.parametrize("where", ["here", "in another process"])
def test_a_prompt_that_comes_first_is_answered_without_it(
    client: Client, ollama: ScriptedOllama, start_chatterd: Callable[..., Program], shared_database: str, where: str
) -> None:
    gate = Gate("the summary")
    summarises(ollama, HoldsSummary(gate, Text(SUMMARY)))
    turn = talk_until_cut(client)
    gate.reached.wait()
    summary_request = ollama.generations[-1]
    answer = Gate("the answer")
    if where == "here":
        say(client, turn)
    else:
        ollama.script(answer, Text("one two three four five"))
        other = start_chatterd(database_url=shared_database, summarize=True)
        with Client(other.url, appid=client.appid) as another:
            path = another.begin(words(30, turn))
            summary_request.closed.wait()  # before the answer begins
            answer.open()
            another.view(path)
    summary_request.closed.wait()
    assert SENT not in prompts(ollama)[-1]
    gate.open()
    say(client, turn + 1)  # here it is made after the reply
    assert summary_of(client)["text"] == SUMMARY


FAILURES = {
    "an error": failure(500, "no"),
    "a broken connection": Reset(),
    "a runner that dies": RunnerDies(),
    "white space": Text("  \n "),
    "a novel": Text("a " * 49 + "x" * 5_000),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failure_leaves_the_plain_cut(
    client: Client, ollama: ScriptedOllama, summarizing: Program, what: str
) -> None:
    summarises(ollama, FAILURES[what])
    turn = talk_until_cut(client)
    reply = client.history()["messages"][-1]["id"]
    summarizing.wait_log(f"What reply {reply} was not sent is not summarised")
    say(client, turn)
    assert client.history()["summary"] is None
    assert prompts(ollama)[-1][: len(prompts(ollama)[-2])] == prompts(ollama)[-2]
    assert len(asked(ollama)) == 1  # it is not tried again
    summarises(ollama, Text(SUMMARY))
    talk_until_cut(client, turn + 1)
    assert summary_of(client)["text"] == SUMMARY
    assert "Assistant: " in asked(ollama)[-1]["messages"][0]["content"]


def test_a_summary_that_takes_too_long_is_given_up(
    start_chatterd: Callable[..., Program], shared_database: str, ollama: ScriptedOllama
) -> None:
    summarises(ollama, Gate("a summary that never comes"))
    program = start_chatterd(database_url=shared_database, summarize=True, reply_timeout=1)
    with Client(program.url) as client:
        turn = talk_until_cut(client)
        ollama.generations[-1].closed.wait()
        program.wait_log("is not summarised: it took too long")
        say(client, turn)


def test_a_drain_does_not_wait_for_a_summary(
    ollama: ScriptedOllama, summarizing: Program, start_chatterd: Callable[..., Program], shared_database: str
) -> None:
    dying = start_chatterd(database_url=shared_database, summarize=True)
    with Client(dying.url) as client:
        gate = Gate("the summary")
        summarises(ollama, gate)
        turn = talk_until_cut(client)
        gate.reached.wait()
        assert dying.terminate() == 0
    with Client(summarizing.url, appid=client.appid) as again:
        say(again, turn)
        assert again.history()["summary"] is None


def test_a_continued_reply_is_sent_the_summary_that_it_was_begun_with(
    ollama: ScriptedOllama, summarizing: Program, start_chatterd: Callable[..., Program], shared_database: str
) -> None:
    dying = start_chatterd(database_url=shared_database, summarize=True)
    with Client(dying.url) as client:
        turn = talk_until_cut(client)
        until = summary_of(client)["until"]
        gate = Gate("the fourth word")
        ollama.script(Text("one two three four five", hold={3: gate}))
        path = client.begin(words(30, turn))
        gate.reached.wait()
        assert edit(client, until, "Another summary.") == 204
        dying.kill()
        gate.open()
    with Client(summarizing.url, appid=client.appid) as again:
        assert again.view(path)[-1].json["done"]
        sent, rendered = prompts(ollama)[-1], ollama.renderings[-1].json["messages"]
        assert sent[0] == SENT and rendered[: len(sent)] == sent
        assert again.history()["context"]["summary"] is True
        say(again, turn + 1)
        assert prompts(ollama)[-1][0]["content"].endswith("\nAnother summary.")


def test_without_the_setting_nothing_is_summarised(
    start_chatterd: Callable[..., Program], shared_database: str, ollama: ScriptedOllama
) -> None:
    with Client(start_chatterd(database_url=shared_database).url) as client:
        turn = talk_until_cut(client)
        talk_until_cut(client, turn)
        assert client.history()["summary"] is None
    assert asked(ollama) == []


def test_another_model_or_window_without_a_cut_is_sent_everything(client: Client, ollama: ScriptedOllama) -> None:
    turn = talk_until_cut(client)
    summary_of(client)
    say(client, turn, options={"num_ctx": 4_000})
    assert SENT not in prompts(ollama)[-1]
    assert "summary" not in client.history()["context"]
    say(client, turn + 1, truncate=True)
    assert SENT not in prompts(ollama)[-1]


def test_a_prompt_that_fits_only_without_the_summary_is_sent_without(client: Client, ollama: ScriptedOllama) -> None:
    turn = talk_until_cut(client)
    until = summary_of(client)["until"]
    assert edit(client, until, words(WINDOW // 2, 500)) == 204
    assert [event for event in client.ask(words(WINDOW // 2, turn)) if event.name == "error"] == []
    assert prompts(ollama)[-1][0]["role"] == "user"
    assert "summary" not in client.history()["context"]
