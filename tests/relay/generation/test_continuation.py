"""A reply whose Ollama or whose process dies is continued exactly, whatever the model does with its own last words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client import Client, Event
from tests.cluster import words
from tests.database import eventually, execute, reply_row, rows
from tests.fakes.ollama import (
    Answer,
    Death,
    Gate,
    Mode,
    Model,
    OllamaDies,
    Pause,
    RunnerDies,
    ScriptedOllama,
    Step,
    Text,
    Whole,
    Words,
    line,
    no_backend,
    strip_end,
)
from tests.program import Program

STORY = "The ship sailed at dawn.\n\nIt came back at dusk, \U0001f6a2 and all was well. The ship sailed at dawn. "
"""Repeats itself; has line breaks, an astral character, and white space at its end."""

MODES: list[Mode] = ["open", "closed", "echo"]
ADOPTED_MODES = ["open", *(pytest.param(mode, marks=pytest.mark.extended) for mode in ("closed", "echo"))]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def said(events: Sequence[Event]) -> str:
    """Return the content of events, none of which is an error."""
    assert [event.name for event in events] == ["message"] * len(events), events[-1]
    assert [event.id for event in events] == list(range(len(events)))
    return "".join(event.json["message"]["content"] for event in events)


def error(events: Sequence[Event]) -> str:
    """Return the text of the last event, an error."""
    assert events[-1].name == "error"
    return str(events[-1].json["error"])


def row_of(url: str, client: Client) -> dict[str, Any]:
    """Return the row of the conversation's newest reply."""
    found = rows(url, "SELECT * FROM replies WHERE appid = $1 ORDER BY started DESC LIMIT 1", client.appid)
    return dict(found[0])


@dataclass(eq=False)
class DiesInQueue(Step):
    """The runner dies before the first line, after so many seconds."""

    seconds: float

    async def play(self, answer: Answer) -> None:
        await Pause(self.seconds).play(answer)
        await RunnerDies().play(answer)


# Ollama or its runner dies in mid-reply.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "how",
    [RunnerDies(), OllamaDies(back_after=0.05), OllamaDies(broken=line("never shown")[:-9], back_after=0.05)],
    ids=["runner", "ollama", "half a line"],
)
def test_a_reply_is_continued_at_the_character(
    client: Client, ollama: ScriptedOllama, session_database_url: str, mode: Mode, how: Step
) -> None:
    ollama.default = (Text(STORY, mode=mode),)
    ollama.deaths = {0: Death(7, how), 1: Death(1, how), 2: Death(0, how)}
    assert said(client.ask("hi")) == STORY
    assert client.messages() == [("user", "hi"), ("assistant", STORY)]
    assert len(ollama.generations) == 4
    assert all(request.json["raw"] for request in ollama.generations[1:])
    row = row_of(session_database_url, client)
    assert (row["status"], row["continuations"]) == ("done", 3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1)
    | st.lists(st.sampled_from([" ", "\n", "<|im_end|>", "<|im_start|>assistant\n", "<think>", "a", "ab"]), min_size=1),
    deaths=st.lists(st.integers(1, 4), max_size=4),
    mode=st.sampled_from(MODES),
)
def test_property_any_text_cut_anywhere_is_shown_once(
    client: Client, ollama: ScriptedOllama, parts: list[str], deaths: list[int], mode: Mode
) -> None:
    ollama.forget()
    text = "".join(parts)
    ollama.default = (Text(text, parts, mode=mode),)
    ollama.deaths = {number: Death(after, RunnerDies()) for number, after in enumerate(deaths)}
    client.appid += "x"
    assert said(client.ask("hi")) == text


def test_what_was_sent_is_sent_again_byte_for_byte(client: Client, ollama: ScriptedOllama) -> None:
    ollama.script(Words())
    client.ask("before", system="ignored")
    tool = {"role": "tool", "tool_name": "f", "content": "3", "zeta": {"b": 1, "a": [1.50, None]}}
    body = client.body("hi", options={"seed": 1}) | {"format": None}
    body["messages"] = [{"role": "system", "content": "Be brief."}, tool, *body["messages"]]
    ollama.deaths = {1: Death(0, OllamaDies(back_after=0.05)), 2: Death(0, no_backend(502))}
    with client.http.stream("POST", "/llmchat", json=body) as response:
        response.read()
    first, second, third = ollama.generations[1:]
    assert first.body == second.body == third.body


@pytest.mark.parametrize("status", [502, 503])
def test_a_proxy_without_a_server_is_asked_again(
    client: Client, ollama: ScriptedOllama, session_database_url: str, status: int
) -> None:
    ollama.script(no_backend(status))
    assert said(client.ask("hi")) == "w0 w1 w2 w3 w4 "
    assert row_of(session_database_url, client)["continuations"] == 0


def test_an_ollama_that_restarts_is_waited_for(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.default = (Words(hold={2: gate}),)
    with client.prompt("hi") as stream:
        gate.reached.wait()
        ollama.die()
        eventually("a line was shown", lambda: stream.next())
        ollama.listen_again()
        gate.open()
        rest = stream.rest()
    assert rest[-1].json["done"]
    assert client.messages()[-1] == ("assistant", "w0 w1 w2 w3 w4 ")


def test_a_reply_is_continued_five_times_at_most(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    ollama.deaths = {number: Death(0, RunnerDies()) for number in range(1, 9)} | {0: Death(2, RunnerDies())}
    events = client.ask("hi")
    assert [event.name for event in events] == ["message", "message", "error"]
    assert "unexpected EOF" in error(events)
    assert len(ollama.generations) == 6
    assert row_of(session_database_url, client)["status"] == "failed"
    assert client.messages()[-1] == ("assistant", "w0 w1 ")


def test_an_ollama_that_stays_away_ends_the_reply_after_the_timeout(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    program = start_chatterd(database_url=database_url, ollama_retry_timeout=0.5, heartbeat_interval=0.1)
    with Client(program.url) as asker:
        ollama.deaths = {0: Death(2, OllamaDies())}
        with asker.prompt("hi") as stream:
            assert [stream.next() is not None for _ in range(2)] == [True, True]
            assert stream.comment() == ": waiting"
            assert "cannot be reached" in error(stream.rest())
        assert asker.messages()[-1] == ("assistant", "w0 w1 ")


def test_a_reply_that_waits_for_ollama_can_be_stopped(client: Client, ollama: ScriptedOllama) -> None:
    ollama.deaths = {0: Death(2, OllamaDies())}
    with client.prompt("hi") as stream:
        assert [stream.next() is not None for _ in range(2)] == [True, True]
        assert client.http.delete(stream.response.headers["Content-Location"]).status_code == 202
        assert stream.rest()[-1].json["done_reason"] == "stopped"


def test_a_silent_ollama_ends_the_reply_after_the_first_line_timeout(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    with Client(start_chatterd(database_url=database_url, first_line_timeout=0.3).url) as asker:
        ollama.deaths = {0: Death(2, RunnerDies())}
        ollama.rendered = Gate()
        assert error(asker.ask("hi")) == "Ollama sent nothing for 0.3 seconds before the first line."


# How it is continued where a raw prompt cannot do it.


@pytest.mark.parametrize("mode", MODES)
def test_with_tools_it_is_continued_as_a_chat_or_interrupted(
    client: Client, ollama: ScriptedOllama, session_database_url: str, mode: Mode
) -> None:
    ollama.script(Text(STORY, mode=mode))
    ollama.script(Text("Another ship.", mode=mode) if mode == "closed" else Text(STORY, mode=mode))
    ollama.deaths = {0: Death(7, RunnerDies())}
    events = client.ask("hi", tools=TOOLS)
    if mode == "closed":
        assert "could not be continued" in error(events)
        assert row_of(session_database_url, client)["status"] == "interrupted"
        assert STORY.startswith(client.messages()[-1][1]) and len(events) == 8
    else:
        assert said(events) == STORY
    assert not any("raw" in request.json for request in ollama.generations)


@pytest.mark.parametrize("mode", MODES)
def test_without_renderings_only_words_that_are_repeated_prove_a_continuation(
    client: Client, ollama: ScriptedOllama, session_database_url: str, mode: Mode
) -> None:
    ollama.model = Model(renders=False)
    ollama.script(Text(STORY, mode=mode))
    ollama.script(Text("Another ship.", mode=mode) if mode == "closed" else Text(STORY, mode=mode))
    ollama.deaths = {0: Death(7, RunnerDies())}
    events = client.ask("hi")
    if mode == "echo":
        assert said(events) == STORY
    else:
        assert "could not be continued" in error(events)
        assert row_of(session_database_url, client)["status"] == "interrupted"


@pytest.mark.parametrize("deaths", [[3], [12], [17], [3, 6]])
@pytest.mark.parametrize("mode", ["closed", "echo"])
def test_words_that_are_repeated_do_not_count_against_the_token_limit(
    client: Client, ollama: ScriptedOllama, mode: Mode, deaths: Sequence[int]
) -> None:
    ollama.model = Model(renders=False)
    ollama.default = (Words(mode=mode),)
    ollama.deaths = {number: Death(after, RunnerDies()) for number, after in enumerate(deaths)}
    events = client.ask("hi", options={"num_predict": 18})
    assert said(events) == words(18)
    assert events[-1].json["done_reason"] == "length"
    last = ollama.generations[-1]
    eventually("the model is stopped", lambda: last.answered.happened or last.closed.happened)


@pytest.mark.parametrize("rendering", [b"no JSON", b'{"_debug_info":{"rendered_template":"\xff"}}', b"[" * 5000])
def test_a_rendering_that_cannot_be_read_is_none(client: Client, ollama: ScriptedOllama, rendering: bytes) -> None:
    ollama.default = (Words(mode="echo"),)
    ollama.deaths = {0: Death(2, RunnerDies())}
    ollama.rendered = Whole(200, rendering)
    assert said(client.ask("hi")) == "w0 w1 w2 w3 w4 "


def test_words_that_the_renderer_changes_are_continued_as_a_chat(client: Client, ollama: ScriptedOllama) -> None:
    ollama.model = Model(changes=strip_end)
    ollama.default = (Text("one two ", ["one ", "two "], mode="echo"),)
    ollama.deaths = {0: Death(1, RunnerDies())}
    assert said(client.ask("hi")) == "one two "
    assert "raw" not in ollama.generations[1].json


@pytest.mark.parametrize(
    ("fields", "images"), [({"format": "json"}, False), ({"format": {"type": "object"}}, False), ({}, True)]
)
def test_formats_and_pictures_are_interrupted(
    client: Client, ollama: ScriptedOllama, fields: dict[str, Any], images: bool
) -> None:
    ollama.deaths = {0: Death(2, RunnerDies())}
    body = client.body("hi", **fields)
    if images:
        body["messages"][0]["images"] = ["aGVsbG8="]
    events = client.ask("hi", messages=body["messages"], **fields)
    assert "could not be continued" in error(events)
    assert len(ollama.generations) == 1


def test_a_thought_begins_again_after_a_line_that_says_so(
    client: Client, ollama: ScriptedOllama, session_database_url: str
) -> None:
    ollama.default = (Text("so", thinks=["hm ", "well "]),)
    ollama.deaths = {0: Death(1, RunnerDies()), 1: Death(2, RunnerDies())}
    events = client.ask("hi", think=True)
    restarts = [number for number, event in enumerate(events) if event.json.get("thinking_restarted")]
    assert restarts == [1, 4]
    assert said(events) == "so"
    message = client.history()["messages"][-1]
    assert (message["content"], message["thinking"]) == ("so", "hm well ")
    assert row_of(session_database_url, client)["continuations"] == 2


def test_an_ended_thought_stands_in_the_prompt_that_is_continued(client: Client, ollama: ScriptedOllama) -> None:
    ollama.default = (Text("so it is", thinks=["hm "]),)
    ollama.deaths = {0: Death(2, RunnerDies())}
    assert said(client.ask("hi", think=True)) == "so it is"
    assert "hm " in ollama.generations[1].json["prompt"]


@pytest.mark.parametrize("bos", ["<s>", "<|begin_of_text|>"])
def test_a_token_that_the_tokenizer_adds_is_not_sent_twice(client: Client, ollama: ScriptedOllama, bos: str) -> None:
    ollama.model = Model(bos=bos)
    ollama.deaths = {0: Death(2, RunnerDies())}
    assert said(client.ask("hi")) == "w0 w1 w2 w3 w4 "
    assert not ollama.generations[1].json["prompt"].startswith(bos)


def test_the_limit_of_tokens_holds_for_the_whole_reply(client: Client, ollama: ScriptedOllama) -> None:
    ollama.deaths = {0: Death(3, RunnerDies()), 1: Death(2, RunnerDies()), 2: Death(2, RunnerDies())}
    events = client.ask("hi", options={"num_predict": 7, "seed": 1})
    assert said(events) == "".join(f"w{number} " for number in range(7))
    assert events[-1].json["done_reason"] == "length"
    assert [request.json["options"]["num_predict"] for request in ollama.generations] == [7, 4, 2]


def test_a_conversation_that_exceeds_the_window_is_shortened_by_ollama(client: Client, ollama: ScriptedOllama) -> None:
    """If the client wants it."""
    ollama.model = Model(num_ctx=15)
    ollama.default = (Text("one two three"),)
    client.ask("many words " * 6, truncate=True)
    ollama.deaths = {1: Death(1, RunnerDies())}
    assert said(client.ask("hi", truncate=True)) == "one two three"
    too_long, shortened = ollama.generations[2:]
    assert "many words" in too_long.json["prompt"] and "many words" not in shortened.json["prompt"]


def test_a_reply_that_fills_the_window_is_interrupted(client: Client, ollama: ScriptedOllama) -> None:
    ollama.model = Model(num_ctx=3)
    ollama.default = (Text("one two three four"),)
    ollama.deaths = {0: Death(3, RunnerDies())}
    assert "model's window holds 3" in error(client.ask("hi"))


# It ends in time.


def test_a_reply_that_waits_for_a_rendering_ends_after_the_reply_timeout(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    with Client(start_chatterd(database_url=database_url, reply_timeout=1, first_line_timeout=30).url) as asker:
        ollama.deaths = {0: Death(2, RunnerDies())}
        ollama.rendered = Gate()
        assert error(asker.ask("hi")) == "The reply took longer than 1 seconds."
        ollama.arrival(0, "rendering").wait().closed.wait()


def test_the_time_in_which_ollama_has_the_request_is_no_time_without_ollama(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    with Client(start_chatterd(database_url=database_url, ollama_retry_timeout=1).url) as asker:
        ollama.deaths = {0: Death(2, RunnerDies()), 1: Death(0, DiesInQueue(1.5)), 2: Death(0, RunnerDies())}
        assert said(asker.ask("hi")) == "w0 w1 w2 w3 w4 "


# Continue: an empty prompt after the assistant's words.


@pytest.mark.parametrize("mode", MODES)
def test_continue_goes_on_in_the_same_message(
    client: Client, ollama: ScriptedOllama, session_database_url: str, mode: Mode
) -> None:
    ollama.default = (Text(STORY, mode=mode),)
    first = client.ask("hi", options={"num_predict": 5})
    before = client.history()["messages"][-1]
    ollama.deaths = {1: Death(3, RunnerDies())}
    second = client.ask()
    assert said(first) + said(second) == STORY
    [_, after] = client.history()["messages"]
    assert (after["content"], after["id"], after["seq"]) == (STORY, before["id"], before["seq"])
    row = row_of(session_database_url, client)
    assert (row["continues_seq"], row["continues_at"]) == (before["seq"], len(said(first)))
    assert said(client.view(f"/llmchat/{row['id']}")) == said(second)


def test_who_wants_no_stream_gets_one_line_from_continue_too(client: Client, ollama: ScriptedOllama) -> None:
    client.ask("hi", options={"num_predict": 2})
    [event] = client.ask(stream=False, options={"num_predict": 3})
    assert (event.json["message"]["content"], event.json["done"]) == ("w2 w3 w4 ", True)


def test_a_new_answer_in_one_line_is_recognized_too(client: Client, ollama: ScriptedOllama) -> None:
    ollama.model = Model(renders=False)
    client.ask("hi", options={"num_predict": 2})
    ollama.default = (Text("Another.", mode="closed"),)
    assert "could not be continued" in error(client.ask(stream=False))


def test_white_space_alone_continues_a_message(client: Client, ollama: ScriptedOllama) -> None:
    ollama.default = (Text("one \n\n", ["one", " \n\n"]),)
    client.ask("hi", options={"num_predict": 1})
    assert said(client.ask()) == " \n\n"
    assert client.messages()[-1] == ("assistant", "one \n\n")


# The process dies.


@pytest.mark.parametrize("mode", ADOPTED_MODES)
def test_an_adopted_reply_is_continued_at_the_character_from_what_it_was_sent(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str, mode: Mode
) -> None:
    gate = Gate()
    ollama.default = (Text(STORY, mode=mode, hold={7: gate}),)
    owner, other = start_chatterd(database_url=database_url), start_chatterd(database_url=database_url)
    with Client(owner.url) as client, Client(other.url, client.appid) as viewer:
        path = client.begin("hi")
        gate.reached.wait()
        eventually("all is in the log", lambda: _lines(database_url, path) == 7)
        execute(
            database_url,
            f"INSERT INTO chatts (tenant, appid, username, message) VALUES ('', '{client.appid}', 'user', 'meanwhile')",
        )
        owner.kill()
        gate.open()
        assert said(viewer.view(path)) == STORY
        assert viewer.messages() == [("user", "hi"), ("user", "meanwhile"), ("assistant", STORY)]
    assert "meanwhile" not in ollama.generations[1].json["prompt"]
    assert reply_row(database_url, path)["attempts"] == 1


@pytest.mark.parametrize("mode", ADOPTED_MODES)
def test_an_adopted_continue_goes_on_in_the_same_message(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str, mode: Mode
) -> None:
    gate = Gate()
    ollama.default = (Text(STORY, mode=mode, hold={9: gate}),)
    owner, other = start_chatterd(database_url=database_url), start_chatterd(database_url=database_url)
    with Client(owner.url) as client, Client(other.url, client.appid) as viewer:
        first = said(client.ask("hi", options={"num_predict": 5}))
        path = client.begin()
        gate.reached.wait()
        eventually("all is in the log", lambda: _lines(database_url, path) == 4)
        owner.kill()
        gate.open()
        assert first + said(viewer.view(path)) == STORY
        assert viewer.messages() == [("user", "hi"), ("assistant", STORY)]


def _lines(url: str, path: str) -> int:
    [found] = rows(url, "SELECT count(*) AS n FROM reply_lines WHERE reply = $1", path.removeprefix("/llmchat/"))
    return int(found["n"])
