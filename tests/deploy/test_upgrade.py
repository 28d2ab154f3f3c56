"""Upgrades without downtime: the version before the newest migration runs beside the present one."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from db.migrate import FOLDER
from tests.client import Client
from tests.cluster import words
from tests.database import eventually, rows
from tests.fakes.ollama import Gate, ScriptedOllama, Words
from tests.program import ROOT, Program

NEWEST = sorted(FOLDER.glob("*.sql"))[-1]


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def version_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the code of the last commit without the newest migration."""
    file = str(NEWEST.relative_to(ROOT))
    commit = git("log", "--diff-filter=A", "--format=%H", "--", file).decode().split()
    if not commit:
        pytest.skip("the newest migration is not committed, or this checkout has no history")
    folder = tmp_path_factory.mktemp("before")
    subprocess.run(["tar", "--extract", "--directory", folder], input=git("archive", f"{commit[-1]}^"), check=True)
    return folder


@pytest.fixture
def old(version_before: Path, database_url: str, ollama: ScriptedOllama) -> Iterator[Program]:
    """A chatterd of that version."""

    class Before(Program):
        root = version_before

    drain = "drain_timeout" if "drain_timeout" in (version_before / "settings.py").read_text() else "drain"
    with Before(database_url=database_url, ollama_host=ollama.url, embedded_model=False, **{drain: 0}) as program:
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
