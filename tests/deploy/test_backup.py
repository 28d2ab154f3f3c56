"""The commands for backup and restore in docs/operations.md, as written, on a database in use."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from embedded.postgres import account, binaries
from tests.client import Client
from tests.cluster import words
from tests.database import reply_row
from tests.fakes.ollama import Gate, ScriptedOllama, Words
from tests.program import ROOT, Program

TOOLS = binaries.find(account.current()).path("pg_dump").parent
"""The folder of PostgreSQL's programs."""


def commands() -> tuple[str, str]:
    """Return the commands of the section: one to back up, one to restore."""
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.split("## Backup and restore\n")[1].split("\n## ")[0]
    backup, restore = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    return backup, restore


def run(command: str, folder: Path, **urls: str) -> None:
    environment = {"PATH": f"{TOOLS}:{os.environ['PATH']}", **urls}
    done = subprocess.run(["sh", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_restored_database_continues_from_the_dump(
    database_url: str, start_chatterd: Callable[..., Program], ollama: ScriptedOllama, tmp_path: Path
) -> None:
    backup, restore = commands()
    ollama.script(Words())
    ollama.script(Words(hold={3: Gate()}))
    client = Client(start_chatterd(database_url=database_url).url)
    with client.http:
        client.ask("finished")
        path = client.begin("unfinished", options={"num_predict": 6})
        with client.follow(path) as stream:
            for _ in range(3):
                assert stream.next()
            run(backup, tmp_path, DATABASE_URL=database_url)
            client.http.post("/llmchat", json=Client("").body("after the dump"))
            restored = urlunsplit(urlsplit(database_url)._replace(path="/chatterd_restored"))
            run(restore, tmp_path, DATABASE_URL=database_url, RESTORED_URL=restored)
            other = Client(start_chatterd(database_url=restored).url, client.appid)
            with other.http:
                events = other.view(path)
                assert [event.id for event in events] == list(range(7))
                assert "".join(event.json["message"]["content"] for event in events) == words(6)
                assert [text for _, text in other.messages()] == ["finished", words(5), "unfinished", words(6)]
                other.ask("and on")
            assert reply_row(restored, path)["status"] == "done"
            assert reply_row(database_url, path)["status"] == "streaming"  # the running reply is not affected
