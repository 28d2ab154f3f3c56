"""Troubles of a database that is reached: each is told in words, once in the log, and over when it is over."""

import asyncio
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests import pgbouncer
from tests.client import Client
from tests.cluster import OwnPostgres
from tests.database import eventually, execute, reply_row, rows, with_connection
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.program import Program

pytestmark = [
    pytest.mark.expects_log("database is (still )?unavailable"),
    pytest.mark.skipif(pgbouncer.EVERYTHING, reason="a pooler gives other reasons"),
]

READY = {"ready": True, "draining": False, "database": "ok", "ollama": "ok"}

DISK_BYTES = 96 * 1024 * 1024


def about_the_database(program: Program) -> list[str]:
    """Return the log's lines about the database since the program was ready, without time and place."""
    log = program.log.partition("chatterd is ready")[2]
    return [line.split("] ", 1)[1] for line in log.splitlines() if re.search("database|lease|journal", line)]


def reason(client: Client) -> str | None:
    answer = client.http.get("/readyz")
    assert answer.status_code == (503 if "reason" in answer.json() else 200), answer.text
    told: str | None = answer.json().get("reason")
    return told


def wait_ready(client: Client) -> None:
    eventually("ready", lambda: client.http.get("/readyz").json() == READY)


def test_an_outage_is_one_line_and_its_end_another(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama
) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    with CuttingProxy(database_url) as proxy:
        program = start_chatterd(database_url=proxy.url, acquire_timeout=1)
        with Client(program.url) as client, client.prompt("hi") as stream:
            assert stream.next()
            proxy.cut()
            gate.open()
            for _ in range(20):  # all parts try again and again meanwhile
                assert client.http.post("/llmchat", json=Client(program.url).body("refused")).status_code == 503
                assert reason(client)
            eventually("retries", lambda: reason(client) == "unreachable")
            proxy.restore()
            assert [event.json["done"] for event in stream.rest()] == [True]
            program.wait_log("available again")
            wait_ready(client)
        lines = [line for line in about_the_database(program) if "request" not in line]
        assert len(lines) == 2, lines
        assert re.match(r"The database is unavailable \((connection lost|unreachable)\): ", lines[0])
        assert re.fullmatch(r"The database is available again after \d+\.\d s\.", lines[1])


def test_a_program_is_ready_only_when_its_database_is(
    start_chatterd: Callable[..., Program], database_url: str
) -> None:
    with CuttingProxy(database_url, away=True) as proxy:
        program = start_chatterd(database_url=proxy.url, acquire_timeout=1)
        assert "chatterd listens and waits for the database (unreachable): open http://" in program.log
        assert "chatterd is ready" not in program.log
        proxy.restore()
        program.wait_log("chatterd is ready: open http://")
        with Client(program.url) as client:
            wait_ready(client)


@pytest.mark.expects_log("is limited to 6 connections")
def test_too_many_connections_are_told_and_retried(start_chatterd: Callable[..., Program], database_url: str) -> None:
    """The server has no connection left for the journal, without which no reply can be stored."""
    name = rows(database_url, "SELECT current_database()")[0][0]
    execute(database_url, f"CREATE ROLE {name}_user LOGIN; GRANT ALL ON SCHEMA public TO {name}_user")
    url = urlunsplit(urlsplit(database_url)._replace(netloc=f"{name}_user@"))
    others = [url] * 2

    async def occupied(connection: asyncpg.Connection) -> None:
        more = [await asyncpg.connect(other) for other in others]
        await connection.execute(f"ALTER ROLE {name}_user CONNECTION LIMIT 6")
        try:
            await asyncio.to_thread(check)
        finally:
            for other in more:
                other.terminate()

    def check() -> None:
        program = start_chatterd(database_url=url)
        assert "waits for the database (too many connections)" in program.log
        assert "chatterd is ready" not in program.log
        with Client(program.url) as client:
            assert reason(client) == "too many connections"
            assert client.http.post("/llmchat", json=client.body("hi")).status_code == 503
            execute(database_url, f"ALTER ROLE {name}_user CONNECTION LIMIT -1")
            program.wait_log("chatterd is ready")
            wait_ready(client)
            assert client.ask("hi")[-1].json["done"] is True

    with_connection(database_url, occupied)


def test_a_database_that_becomes_read_only(
    start_chatterd: Callable[..., Program], database_url: str, postgres: str
) -> None:
    name = rows(database_url, "SELECT current_database()")[0][0]
    program = start_chatterd(database_url=database_url)
    with Client(program.url) as client:
        client.ask("hi")
        execute(database_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        eventually("told", lambda: reason(client) == "read-only")
        answer = client.http.post("/llmchat", json=client.body("refused"))
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
        execute(postgres, f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        wait_ready(client)
        assert client.ask("again")[-1].json["done"] is True


@contextmanager
def small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chatterd-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0755", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def can_mount() -> bool:
    if os.geteuid() != 0:
        return False
    folder = tempfile.mkdtemp()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode == 0:
        subprocess.run(["umount", folder], check=True)
    Path(folder).rmdir()
    return mounted.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs root, who may mount a file system of 96 MB")
def test_a_full_disk_pauses_replies_until_there_is_room(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama
) -> None:
    """A tablespace on a file system of its own is full, and is freed later."""
    gate, later = Gate(), Gate()
    text = random.Random(3).randbytes(1_000_000).hex()  # PostgreSQL cannot compress it much
    ollama.script(Head(), Lines(line("a")), gate, Lines(line(text)), later, Lines(last_line("c")))
    with small_disk() as disk, OwnPostgres() as postgres:
        data = Path(rows(postgres.url, "SHOW data_directory")[0][0])
        space = disk / "space"
        space.mkdir()
        shutil.chown(space, data.owner(), data.group())
        execute(postgres.url, f"CREATE TABLESPACE small LOCATION '{space}'")
        execute(postgres.url, "CREATE DATABASE chat TABLESPACE small")
        url = postgres.url.replace("/postgres?", "/chat?")
        program = start_chatterd(database_url=url, db_retry_timeout=60, heartbeat_interval=0.2)
        with Client(program.url) as client, client.prompt("hi") as stream:
            path = stream.response.headers["Content-Location"]
            assert stream.next()
            filler = disk / "filler"
            with filler.open("wb") as file:
                free = shutil.disk_usage(disk).free
                file.write(b"\0" * (free - free % 4096 - 65536))
                file.flush()
            gate.open()
            eventually("told", lambda: reason(client) == "disk full")
            big = {"messages": [{"role": "user", "content": text}]}
            answer = client.http.post("/llmchat", json={**Client(program.url).body("hi"), **big})
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
            assert reason(client) == "disk full"
            assert reply_row(url, path)["status"] == "streaming"
            filler.unlink()
            wait_ready(client)
            later.open()
            assert [event.json["done"] for event in stream.rest()] == [False, True]
            assert client.messages()[-1] == ("assistant", "a" + text + "c")
        program.terminate()
        lines = [line for line in about_the_database(program) if "request" not in line]
        assert lines[0].startswith("The database is unavailable (disk full): DiskFullError: could not extend file")
