"""Upgrades without downtime: the version before the newest migration runs beside the present one."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from db.migrate import FOLDER
from tests.client import Client
from tests.cluster import words
from tests.course import CourseServer
from tests.database import eventually, execute, rows
from tests.fakes.ollama import Gate, ScriptedOllama, Words
from tests.program import ROOT, Program

NEWEST = sorted(FOLDER.glob("*.sql"))[-1]


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def version_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the code of the last commit without the newest migration."""
    file = str(NEWEST.relative_to(ROOT))
    try:
        commit = git("log", "--diff-filter=A", "--format=%H", "--", file).decode().split()
    except (OSError, subprocess.CalledProcessError):  # no git, or a copy of the files without its repository
        commit = []
    if not commit:
        pytest.skip("the newest migration is not committed, or this checkout has no history")
    folder = tmp_path_factory.mktemp("before")
    subprocess.run(["tar", "--extract", "--directory", folder], input=git("archive", f"{commit[-1]}^"), check=True)
    return folder


def old_program(version_before: Path, database_url: str, ollama: ScriptedOllama) -> Program:
    """Start a chatterd of that version."""

    class Before(Program):
        root = version_before

    drain = "drain_timeout" if "drain_timeout" in (version_before / "settings.py").read_text() else "drain"
    return Before(database_url=database_url, ollama_host=ollama.url, embedded_model=False, **{drain: 0})


@pytest.fixture
def old(version_before: Path, database_url: str, ollama: ScriptedOllama) -> Iterator[Program]:
    """A chatterd of that version, on an empty database."""
    with old_program(version_before, database_url, ollama) as program:
        yield program


def test_the_old_version_streams_during_a_migration_and_releases_its_replies_to_the_new_one(
    old: Program, start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    number = int(NEWEST.name.split("_")[0])
    newest = "SELECT max(number) FROM chatterd_migrations"
    assert rows(database_url, newest)[0][0] < number
    gate = Gate()
    ollama.script(Words(hold={2: gate, 4: Gate()}))
    client = Client(old.url)
    with client.http, client.prompt("one", options={"num_predict": 6}) as stream:
        path = stream.response.headers["Content-Location"]
        shown = [stream.next(), stream.next()]
        new = Client(start_chatterd(database_url=database_url).url)
        assert rows(database_url, newest)[0][0] == number
        gate.open()
        shown += [stream.next(), stream.next()]
        asker = Client(old.url)
        with asker.http:
            assert asker.ask("another")[-1].json["done"]  # the old version still works
        with new.http:
            assert old.terminate() == 0
            shown += new.view(path, last_event_id=3)
            eventually("it is stored", lambda: new.http.get("/llmchat", params={"appID": client.appid}).json())
    assert [event.id for event in shown if event] == list(range(7))
    assert "".join(event.json["message"]["content"] for event in shown if event) == words(6)


def test_columns_of_other_servers_are_kept_equal_for_the_old_version_too(
    version_before: Path, start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    """The new version installs a trigger on the table while the old one streams."""
    columns = 'username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), "appID" varchar(64)'
    execute(database_url, f"CREATE TABLE chatts ({columns})")
    gate = Gate()
    ollama.script(Words(hold={2: gate}))
    with old_program(version_before, database_url, ollama) as old, Client(old.url) as client:
        server = CourseServer(database_url, appid='"appID"')
        with client.prompt("one") as stream:
            assert stream.next()
            new = start_chatterd(database_url=database_url)
            gate.open()
            assert stream.rest()[-1].json["done"]
        client.ask("two")
        server.record("user", "old server's", client.appid)
        expected = [("user", "one"), ("assistant", words(5)), ("user", "two"), ("assistant", words(5))]
        expected.append(("user", "old server's"))
        assert server.history(client.appid) == client.messages() == expected
        with Client(new.url, client.appid) as now:
            assert now.messages() == expected


PICTURE = {"role": "user", "content": "see", "images": ["QUJD"], "a": {"z": 1, "b": 2}}


def prompt_with_picture(client: Client) -> None:
    body = client.body() | {"messages": [PICTURE]}
    assert '"done":true' in client.http.post("/llmchat", json=body).raise_for_status().text.replace(" ", "")


def test_both_versions_read_the_fields_of_messages_that_either_wrote(
    old: Program, start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    before = Client(old.url)
    with before.http:
        prompt_with_picture(before)
        before.ask("prepare the statements again")
        now = Client(start_chatterd(database_url=database_url).url, before.appid)
        with now.http:
            for client in (before, now, before, now):
                prompt_with_picture(client)
            for client in (before, now):
                client.ask("what was it?")
                sent = [message for message in ollama.generations[-1].json["messages"] if message["content"] == "see"]
                assert sent == [PICTURE] * 5
                shown = [message for message in client.history()["messages"] if message["content"] == "see"]
                assert [(message["images"], message["a"]) for message in shown] == [(["QUJD"], PICTURE["a"])] * 5


def test_the_old_version_finishes_what_the_new_one_releases_without_losing_a_word(
    old: Program, start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    """A message that the new version was continuing: the old one stores the rest as a message of its own."""
    new = start_chatterd(database_url=database_url, drain_timeout=0)
    client = Client(new.url)
    viewer = Client(old.url, client.appid)
    with client.http, viewer.http:
        client.ask("one", options={"num_predict": 2})
        ollama.script(Words(hold={4: Gate()}))
        with client.prompt(options={"num_predict": 4}) as stream:
            path = stream.response.headers["Content-Location"]
            shown = [stream.next(), stream.next()]
            assert new.terminate() == 0
        shown += viewer.view(path, last_event_id=1)
        assert "".join(event.json["message"]["content"] for event in shown if event) == words(6, first=2)
        assert "".join(content for role, content in viewer.messages() if role == "assistant") == words(6)
