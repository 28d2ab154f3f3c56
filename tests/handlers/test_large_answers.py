"""Answers that can be large: their bytes are limited, and clients that do not read them cost sockets, not text."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.client import Client
from tests.database import eventually, execute, rows
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program

PAGE_BYTES = 2_097_152
MEGABYTE = 1_000_000


class Memory:
    """The resident memory of a program, in megabytes, from now on."""

    def __init__(self, program: Program) -> None:
        self._folder = Path(f"/proc/{program.process.pid}")
        (self._folder / "clear_refs").write_text("5")  # resets VmHWM: proc(5)
        self._before = self._read("VmRSS")

    @property
    def most_growth(self) -> float:
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> float:
        status = (self._folder / "status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) * 1024 / MEGABYTE


class Crowd:
    """Connections that send requests and do not read the answers."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def get(self, url: str, path: str, count: int) -> list[socket.socket]:
        """Send as many requests; return when each answer has begun."""
        address = httpx.URL(url)
        connections = []
        for _ in range(count):
            connection = self._stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(60)
            connection.connect((address.host, address.port))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            connections.append(connection)
        for connection in connections:
            assert connection.recv(12) == b"HTTP/1.1 200"
        return connections


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    with contextlib.ExitStack() as stack:
        yield Crowd(stack)


def fill(url: str, appid: str | None, count: int, text: str, extra: str = "NULL") -> None:
    """Insert messages; in ``text`` and ``extra``, SQL expressions, ``n`` is the number of the message from 1 on."""
    name = "NULL" if appid is None else f"'{appid}'"
    execute(
        url,
        f"INSERT INTO chatts (appid, username, message, extra) SELECT {name}, 'user', {text}, {extra} "
        f"FROM generate_series(1, {count}) AS n",
    )


# Pages of history: their bytes.


def test_a_page_ends_where_its_bytes_end_and_paging_loses_nothing(client: Client, session_database_url: str) -> None:
    fill(session_database_url, client.appid, 40, "n || repeat('x', 200000)")
    pages = [client.http.get("/llmchat", params={"appID": client.appid, "limit": 500})]
    while (before := pages[-1].json()["before"]) is not None:
        pages.append(client.http.get("/llmchat", params={"appID": client.appid, "limit": 500, "before": before}))
    assert [len(page.json()["messages"]) for page in pages] == [10, 10, 10, 10]
    assert all(len(page.content) < 1.1 * PAGE_BYTES for page in pages)
    contents = [message["content"] for page in reversed(pages) for message in page.json()["messages"]]
    assert contents == [f"{n}{'x' * 200_000}" for n in range(1, 41)]


def test_a_message_that_is_larger_than_a_page_is_a_page_of_its_own(client: Client, session_database_url: str) -> None:
    fill(session_database_url, client.appid, 3, "CASE WHEN n = 2 THEN repeat('€\"', 3000000) ELSE 'small' END")
    newest = client.history(limit=500)
    assert [message["content"] for message in newest["messages"]] == ["small"]
    middle = client.history(limit=500, before=newest["before"])
    assert [message["content"] for message in middle["messages"]] == ['€"' * 3_000_000]
    oldest = client.history(limit=500, before=middle["before"])
    assert [message["content"] for message in oldest["messages"]] == ["small"] and oldest["before"] is None


def test_the_other_fields_of_messages_count_uncompressed(client: Client, session_database_url: str) -> None:
    fill(session_database_url, client.appid, 5, "'x'", "json_build_object('images', ARRAY[repeat('A', 1500000)])")
    page = client.history()
    assert len(page["messages"]) == 1 and page["before"] is not None
    assert page["messages"][0]["images"] == ["A" * 1_500_000]


def test_numbers_in_other_fields_are_returned_as_they_were_sent(client: Client, session_database_url: str) -> None:
    fill(session_database_url, client.appid, 1, "'x'", """'{"a": [1e-16000, 10000000000000000000000001, 1.50]}'""")
    answer = client.http.get("/llmchat", params={"appID": client.appid})
    assert answer.status_code == 200 and '"a":[1e-16000, 10000000000000000000000001, 1.50]' in answer.text


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_page_in_many_parts_is_complete(client: Client, session_database_url: str, version: str) -> None:
    fill(session_database_url, client.appid, 300, "n || repeat('é', 2000)")
    address = client.http.base_url
    with socket.create_connection((address.host, int(address.port or 0)), 60) as connection:
        path = f"/llmchat?appID={quote(client.appid)}&limit=500"
        connection.sendall(f"GET {path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (b"chunked" in head) is (version == "1.1")
    assert b"Cache-Control: no-store\r\n" in head + b"\r\n" and b"application/json" in head
    assert body.endswith(b"\r\n0\r\n\r\n" if version == "1.1" else b'"before":null}')
    assert len(client.history(limit=500)["messages"]) == 300


@pytest.mark.extended
def test_an_answer_that_cannot_be_completed_is_broken_off(
    start_chatterd: Callable[..., Program], database_url: str, crowd: Crowd
) -> None:
    program = start_chatterd(database_url=database_url)
    for appid in ("a", "b"):
        fill(database_url, appid, 1, "repeat('x', 70000000)")  # the memory for large messages suffices for one of them
    [connection] = crowd.get(program.url, "/llmchat?appID=a", 1)
    execute(database_url, "UPDATE chatts SET message = 'short' WHERE appid = 'a'")
    crowd.get(program.url, "/llmchat?appID=b", 1)  # needs the memory of the first message, which is then read again
    received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert not received.endswith(b"0\r\n\r\n")
    program.wait_log('abort_reason="A message was changed while it was read."')


# Clients that do not read.


@pytest.mark.extended
def test_clients_that_do_not_read_a_page_cost_one_part_each(
    start_chatterd: Callable[..., Program], database_url: str, crowd: Crowd
) -> None:
    program = start_chatterd(database_url=database_url)
    fill(database_url, "a", 500, "n || repeat('x', 20000)")
    with Client(program.url, "a") as client:
        client.history(limit=500)
        memory = Memory(program)
        crowd.get(program.url, "/llmchat?appID=a&limit=500", 40)
        assert len(client.history(limit=500)["messages"]) == 104
        print(f"\n40 clients, 10 MB: {memory.most_growth:.0f} MB more")
        assert memory.most_growth < 80


@pytest.mark.extended
def test_clients_that_do_not_read_large_messages_share_the_memory_for_them(
    start_chatterd: Callable[..., Program], database_url: str, crowd: Crowd
) -> None:
    program = start_chatterd(database_url=database_url)
    fill(database_url, "a", 1, "repeat('x', 30000000)")
    with Client(program.url, "a") as client:
        client.http.get("/healthz")
        memory = Memory(program)
        crowd.get(program.url, "/llmchat?appID=a", 30)
        assert len(client.history()["messages"][0]["content"]) == 30_000_000
        print(f"\n30 clients, 30 MB: {memory.most_growth:.0f} MB more")
        assert memory.most_growth < 250


def test_the_messages_without_an_appid_are_streamed(
    start_chatterd: Callable[..., Program], database_url: str, crowd: Crowd
) -> None:
    program = start_chatterd(database_url=database_url)
    fill(database_url, None, 3_000, "n || repeat('x', 4000)")
    execute(database_url, "UPDATE chatts SET time = time - seq * interval '1 s'")
    with Client(program.url) as client:
        client.http.get("/healthz")
        memory = Memory(program)
        crowd.get(program.url, "/getchatts", 20)
        assert client.http.post("/postchatt", json={"name": "a", "message": "later"}).status_code == 200
        rows_read = client.http.get("/getchatts").json()
        assert [row[1][:-4_000] for row in rows_read[:-1]] == [str(n) for n in range(3_000, 0, -1)]
        assert rows_read[-1][:2] == ["a", "later"]
        print(f"\n20 clients, 12 MB: {memory.most_growth:.0f} MB more")
        assert memory.most_growth < 80
        fill(database_url, None, 3, "repeat('y', 10000000)")
        assert len(client.http.get("/getchatts").json()) == 1, "16 MiB at most"


# A line of 8 MB.


@pytest.mark.parametrize(
    "elsewhere",
    [pytest.param(False, id="in the owner", marks=pytest.mark.extended), pytest.param(True, id="in another process")],
)
def test_a_large_line_is_in_memory_once_for_all_viewers(
    start_chatterd: Callable[..., Program],
    database_url: str,
    ollama: ScriptedOllama,
    crowd: Crowd,
    elsewhere: bool,
) -> None:
    owner = start_chatterd(database_url=database_url)
    shown_by = start_chatterd(database_url=database_url) if elsewhere else owner
    large = line("x" * 8_000_000)
    ollama.script(Head(), gate := Gate(), Lines(large, last_line()))
    with Client(owner.url) as client, Client(shown_by.url) as viewer:
        path = client.begin("hi")
        crowd.get(shown_by.url, path, 40)
        memory = Memory(shown_by)
        gate.open()
        events = viewer.view(path)
        assert [event.data for event in events] == [large.decode(), last_line().decode()]
        crowd.get(shown_by.url, path, 40)
        print(f"\n80 viewers, 8 MB: {memory.most_growth:.0f} MB more")
        assert memory.most_growth < 150
        assert viewer.view(path) == events


@pytest.mark.extended
def test_a_reply_whose_log_was_deleted_is_in_memory_once_for_all_viewers(
    start_chatterd: Callable[..., Program], database_url: str, ollama: ScriptedOllama, crowd: Crowd
) -> None:
    program = start_chatterd(database_url=database_url, reply_log_retention=0)
    ollama.script(Head(), Lines(*[line("x" * 1_000_000)] * 8, last_line()))
    with Client(program.url) as client:
        path = client.begin("hi")
        client.view(path)
        eventually(
            "the log is deleted",
            lambda: rows(database_url, "SELECT FROM replies WHERE pruned") and len(client.view(path)) == 1,
        )
        memory = Memory(program)
        crowd.get(program.url, path, 100)
        [event] = client.view(path)
        assert len(event.json["message"]["content"]) == 8_000_000
        print(f"\n100 viewers, 8 MB: {memory.most_growth:.0f} MB more")
        assert memory.most_growth < 150
