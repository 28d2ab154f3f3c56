"""Whole sessions of both editions of the course: its apps on chatterd, its servers in between, on one table."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import pytest

from tests.cluster import words
from tests.course import CourseServer
from tests.course_apps import APPS, App
from tests.database import execute
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, Text, failure, last_line, line
from tests.program import Program

APPID = "edu.umich.reactive.llmChat"
REPLY = words(5)
"""The scripted reply."""

F25 = """
    CREATE TABLE chatts (username varchar(255), message text, id uuid, time timestamptz DEFAULT now(),
        appid varchar(155));
"""
W26 = """
    CREATE TABLE chatts (name varchar(255), message varchar(255), id uuid, time timestamptz DEFAULT CURRENT_TIMESTAMP,
        appid varchar(64));
"""


@dataclass
class Site:
    """A table of one edition, its server, and a chatterd on the same table."""

    server: CourseServer
    url: str


@pytest.fixture(scope="module", params=["F25", "W26"])
def program(
    request: pytest.FixtureRequest, new_database: Callable[[], str], _session_ollama: ScriptedOllama
) -> Iterator[Site]:
    """Start chatterd on a table of this edition with a conversation."""
    url = new_database()
    execute(url, F25 if request.param == "F25" else W26)
    server = CourseServer(url, "username" if request.param == "F25" else "name")
    server.record("user", "before", "old")
    server.record("assistant", "reply", "old")
    server.postchatt("student", "hello, class")
    settings = {"ollama_retry_timeout": 0, "heartbeat_interval": 0.1, "drain_timeout": 1}
    with Program(database_url=url, ollama_host=_session_ollama.url, embedded_model=False, **settings) as chatterd:
        yield Site(server, chatterd.url)
        assert chatterd.alarms([]) == []


@pytest.fixture
def site(program: Site, ollama: ScriptedOllama) -> Site:
    """Return the site, with the scripted Ollama reset."""
    return program


def sent(ollama: ScriptedOllama) -> list[tuple[str, str]]:
    """Return the messages of the last request to Ollama."""
    return [(message["role"], message["content"]) for message in ollama.generations[-1].json["messages"]]


@pytest.mark.parametrize("kind", APPS)
def test_a_class_that_goes_back_and_forth_between_servers(site: Site, ollama: ScriptedOllama, kind: type[App]) -> None:
    appid = f"{APPID}.{kind.__name__}"
    server, expected = site.server, []
    with kind(site.url, appid) as app, kind(site.url, f"{appid}.other") as other:
        for turn in range(3):
            shown = app.send(f"prompt {turn}")
            assert (shown.text, shown.errors, shown.printed) == (REPLY, [], [])
            expected.append(("user", f"prompt {turn}"))
            assert sent(ollama) == expected
            expected.append(("assistant", REPLY))
            assert other.send(f"another {turn}").text == REPLY

            server.record("user", f"old prompt {turn}", appid)
            expected.append(("user", f"old prompt {turn}"))
            assert server.history(appid) == expected
            server.record("assistant", f"old reply {turn}", appid)
            expected.append(("assistant", f"old reply {turn}"))
        assert app.send("the last one").text == REPLY
        assert sent(ollama) == [*expected, ("user", "the last one")]
    assert [text for _, text in server.history(f"{appid}.other")][::2] == [f"another {turn}" for turn in range(3)]
    assert server.getchatts()[2][:2] == ("student", "hello, class")
    assert server.history("old") == [("user", "before"), ("assistant", "reply")]


@pytest.mark.parametrize("kind", APPS)
def test_errors_are_shown_and_the_conversation_goes_on(site: Site, ollama: ScriptedOllama, kind: type[App]) -> None:
    appid = f"{APPID}.errors.{kind.__name__}"
    with kind(site.url, appid, "no-such-model") as app:
        ollama.script(failure(404, "model 'no-such-model' not found"))
        shown = app.send("hi")
        assert (shown.text, shown.printed) == ("", [])
        assert len(shown.errors) == 1 and "no-such-model" in shown.errors[0]
        app.model = "fake"
        shown = app.send("hi again")
        assert (shown.text, shown.errors) == (REPLY, [])
    with pytest.raises(asyncpg.NotNullViolationError, match="null value"):  # the tutorial's test of the error event
        site.server.record(None, "reply", appid)
    assert site.server.history(appid)[-1] == ("assistant", REPLY)


@pytest.mark.parametrize("kind", APPS)
def test_an_app_that_waits_for_its_reply_parses_every_line(site: Site, ollama: ScriptedOllama, kind: type[App]) -> None:
    """Comments while nothing comes, and a text that looks like lines of a stream."""
    gate = Gate()
    text = 'event: x\ndata: y\n\n: z\r\nid: 7\u2028\u0085 {"error": "no"}'
    ollama.script(gate, Text(text))
    with kind(site.url, f"{APPID}.waiting.{kind.__name__}") as app, app.streaming("hi") as steps:
        for _ in range(3):  # three comments
            assert next(steps).text == ""
        gate.open()
        *_, shown = steps
    assert (shown.text, shown.errors, shown.printed) == (text, [], [])


# What an app does at its launch, and what happens to apps that cannot follow, stop or retry a reply.


@pytest.mark.parametrize("kind", APPS)
def test_each_launch_begins_anew_with_the_system_prompt(site: Site, ollama: ScriptedOllama, kind: type[App]) -> None:
    appid = f"{APPID}.launch.{kind.__name__}"
    for launch in range(2):
        with kind(site.url, appid) as app:
            assert app.prepare(f"Be brief, {launch}.") == 200
            assert app.send("hi").text == REPLY
        assert sent(ollama) == [("system", f"Be brief, {launch}."), ("user", "hi")]
        assert site.server.history(appid) == [*sent(ollama), ("assistant", REPLY)]
    site.server.prep(appid, ("system", "Be verbose."))  # the class goes back to the course's server
    site.server.record("user", "and now?", appid)
    assert site.server.history(appid) == [("system", "Be verbose."), ("user", "and now?")]
    with kind(site.url, appid) as app:
        app.send("hi")
    assert sent(ollama) == [("system", "Be verbose."), ("user", "and now?"), ("user", "hi")]


def test_people_of_both_servers_read_each_other(site: Site) -> None:
    with APPS[0](site.url, APPID) as app:
        site.server.postchatt("Ann", "on the course's server")
        answer = app.http.post("/postchatt/", json={site.server.role: "Bob", "message": "on chatterd"})
        assert (answer.status_code, answer.json()) == (200, {})
        chatts = app.http.get("/getchatts/").json()
    said = [("Ann", "on the course's server"), ("Bob", "on chatterd")]
    assert [tuple(chatt[:2]) for chatt in chatts[-2:]] == said
    rows_without_appid = [row for row in site.server.getchatts() if row[0] in ("Ann", "Bob")]
    assert [(*row[:2], str(row[2]), row[3]) for row in rows_without_appid] == [
        (name, text, id, datetime.fromisoformat(time)) for name, text, id, time in chatts[-2:]
    ]


@pytest.mark.parametrize("kind", APPS)
def test_an_app_that_is_closed_in_mid_reply_and_opened_again(
    site: Site, ollama: ScriptedOllama, kind: type[App]
) -> None:
    appid = f"{APPID}.closed.{kind.__name__}"
    ollama.script(Head(), Lines(line("half ")), Gate("never"))
    with kind(site.url, appid) as app, app.streaming("one") as steps:
        assert any(shown.text == "half " for shown in steps)
    with kind(site.url, appid) as app:
        shown = app.send("two")
    assert (shown.text, shown.errors) == (REPLY, [])
    assert sent(ollama) == [("user", "one"), ("assistant", "half "), ("user", "two")]
    assert site.server.history(appid) == [*sent(ollama), ("assistant", REPLY)]


@pytest.mark.parametrize("kind", APPS)
def test_two_devices_with_one_app_take_turns(site: Site, ollama: ScriptedOllama, kind: type[App]) -> None:
    """And an app that sends while its own first request runs."""
    appid = f"{APPID}.devices.{kind.__name__}"
    ollama.script(Head(), Lines(line("a ")), gate := Gate(), Lines(last_line("b")))
    with (
        kind(site.url, appid) as first,
        kind(site.url, appid) as second,
        first.streaming("one") as steps,
        second.streaming("two") as waiting,
    ):
        assert any(shown.text == "a " for shown in steps)
        assert next(waiting).text == ""  # a comment
        gate.open()
        *_, one = steps
        *_, two = waiting
    assert (one.text, one.errors, one.printed) == ("a b", [], [])
    assert (two.text, two.errors, two.printed) == (REPLY, [], [])
    assert sent(ollama) == [("user", "one"), ("assistant", "a b"), ("user", "two")]


def test_an_app_that_is_opened_again_while_another_device_watches(site: Site, ollama: ScriptedOllama) -> None:
    """Its system prompt stops the reply, which the other device shows to its end."""
    appid = f"{APPID}.prepared"
    ollama.script(Head(), Lines(line("a ")), Gate("never"))
    with APPS[0](site.url, appid) as app, APPS[1](site.url, appid) as other, other.streaming("one") as steps:
        assert any(shown.text == "a " for shown in steps)
        assert app.prepare("Be brief.") == 200
        *_, shown = steps
        assert shown.text == "a "
        assert app.send("two").text == REPLY
    assert site.server.history(appid) == [("system", "Be brief."), ("user", "two"), ("assistant", REPLY)]


def test_tool_calls_of_the_courses_server_reach_the_model_and_the_other_way_round(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    execute(database_url, F25.replace("appid varchar(155)", "appid varchar(155), toolcalls text, toolschemas text"))
    server = CourseServer(database_url)
    calls = [{"function": {"name": "getWeather", "arguments": {"lat": "42", "lon": "-83"}}}]
    server.record_tools("user", "weather?", APPID, "toolschemas", '[{"type": "function"}]')
    server.record_tools("assistant", "", APPID, "toolcalls", json.dumps(calls))
    server.record("tool", "5 degrees", APPID)
    with APPS[0](start_chatterd(database_url=database_url).url, APPID) as app:
        ollama.script(Head(), Lines(line("", message={"tool_calls": calls}), last_line()))
        app.send("and now?")
        assert ollama.generations[-1].json["messages"] == [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "5 degrees"},
            {"role": "user", "content": "and now?"},
        ]
    role, content, written, _ = server.history_with_tools(APPID)[-1]
    assert (role, content, json.loads(written or "")) == ("assistant", "", calls)
