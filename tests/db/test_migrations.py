"""Migrations keep all rows of the tutorial's table; queries use an index however large the table is."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

import db.migrate
from db import messages, replies, reply_begin, reply_end
from db.context import selection
from db.migrate import migrate
from db.reply_begin import NewReply
from db.reply_end import FinishRequest, FinishResult
from errors import StartupError
from tests.client import Client
from tests.database import execute, rows, with_connection
from tests.fakes.ollama import ScriptedOllama
from tests.program import Program

# The tutorial's table in the forms that its versions create: with or without appid, and with several types.
SHAPES = {
    "as in the tutorial": (
        "username varchar(255) NOT NULL, message varchar(255) NOT NULL, id uuid, time timestamptz DEFAULT now(),"
        " appid varchar(155)"
    ),
    "without appid": "username varchar(255), message varchar(255), id uuid, time timestamp DEFAULT now()",
    "texts and a timestamp": "username text, message text, id text, time timestamp DEFAULT now(), appid text",
    "with a key and an index": (
        "username varchar(255) NOT NULL, message varchar(255) NOT NULL, id uuid PRIMARY KEY DEFAULT gen_random_uuid(),"
        " time timestamptz NOT NULL DEFAULT now(), appid varchar(155) NOT NULL"
    ),
}


def upgrade(url: str) -> None:
    with_connection(url, migrate)


def table(shape: str) -> str:
    return f"CREATE TABLE chatts ({SHAPES[shape]});"


@pytest.mark.parametrize("shape", SHAPES)
def test_an_existing_table_keeps_all_rows_in_their_order_by_time(database_url: str, shape: str) -> None:
    appid = ", appid" if "appid" in SHAPES[shape] else ""
    execute(
        database_url,
        f"""SET timezone = 'UTC';
        {table(shape)}
        INSERT INTO chatts (username, message, id, time{appid})
        SELECT CASE WHEN n % 2 = 0 THEN 'user' ELSE 'assistant' END, 'm' || n || E' \\n\\té😀', gen_random_uuid(),
               timestamp '2026-01-01' + (n * 7919 % 5000) * interval '1 minute' {", 'app' || n % 7" if appid else ""}
        FROM generate_series(1, 5000) AS n;
        """,
    )
    before = rows(database_url, f"SELECT username, message, id::text, time::text{appid} FROM chatts ORDER BY time")
    upgrade(database_url)
    after = rows(database_url, f"SELECT username, message, id::text, time::text{appid} FROM chatts ORDER BY seq")
    if "timestamptz" in SHAPES[shape]:
        assert after == before
    else:
        assert [list(row)[:3] + list(row)[4:] for row in after] == [list(row)[:3] + list(row)[4:] for row in before]
    ordered = rows(database_url, "SELECT seq, time FROM chatts ORDER BY seq")
    assert [row["seq"] for row in ordered] == list(range(1, 5001))
    assert [row["time"] for row in ordered] == sorted(row["time"] for row in ordered)


def test_rows_of_the_same_time_keep_their_physical_order(database_url: str) -> None:
    execute(
        database_url,
        f"""{table("as in the tutorial")}
        INSERT INTO chatts SELECT 'user', 'm' || n, gen_random_uuid(), timestamptz '2026-01-01', 'a'
        FROM generate_series(1, 2000) AS n
        """,
    )
    upgrade(database_url)
    messages = rows(database_url, "SELECT message FROM chatts ORDER BY seq")
    assert [row["message"] for row in messages] == [f"m{n}" for n in range(1, 2001)]


def test_rows_with_nulls_are_kept(database_url: str) -> None:
    execute(
        database_url,
        """CREATE TABLE chatts (username varchar(255), message text, id uuid, time timestamptz, appid varchar(155));
        INSERT INTO chatts VALUES
            (NULL, NULL, NULL, NULL, NULL),
            ('user', NULL, NULL, '2026-01-02', 'a'),
            (NULL, 'x', NULL, '2026-01-01', 'a'),
            ('user', 'y', NULL, NULL, 'a')
        """,
    )
    upgrade(database_url)
    kept = rows(database_url, "SELECT seq, username, message, id, time, appid FROM chatts ORDER BY seq")
    assert [(row["username"], row["message"], row["appid"]) for row in kept][:2] == [("", "x", "a"), ("user", "", "a")]
    assert {(row["username"], row["message"], row["appid"]) for row in kept[2:]} == {("", "", None), ("user", "y", "a")}
    assert all(row["id"] and row["time"] for row in kept)
    assert len({row["id"] for row in kept}) == 4


def test_an_upgraded_conversation_can_be_continued(
    start_chatterd: Callable[..., Program], ollama: ScriptedOllama, database_url: str
) -> None:
    execute(
        database_url,
        f"""{table("as in the tutorial")}
        INSERT INTO chatts VALUES
            ('assistant', 'hello', gen_random_uuid(), now() - interval '1 minute', 'old'),
            ('user', 'hi', gen_random_uuid(), now() - interval '2 minutes', 'old')
        """,
    )
    client = Client(start_chatterd(database_url=database_url).url, "old")
    with client.http:
        assert client.messages() == [("user", "hi"), ("assistant", "hello")]
        client.ask("x" * 1000, options={"num_predict": 1})
        assert client.messages()[2:] == [("user", "x" * 1000), ("assistant", "w0 ")]
    assert [message["content"] for message in ollama.generations[0].json["messages"]] == ["hi", "hello", "x" * 1000]


def test_the_tutorials_server_works_with_an_upgraded_table(database_url: str) -> None:
    execute(database_url, table("as in the tutorial"))
    upgrade(database_url)
    for number in range(3):
        execute(
            database_url,
            f"INSERT INTO chatts (username, message, id, appID) VALUES ('user', 'm{number}', gen_random_uuid(), 'a')",
        )
    found = rows(database_url, "SELECT username, message FROM chatts WHERE appID = 'a' ORDER BY time ASC")
    assert [tuple(row) for row in found] == [("user", f"m{number}") for number in range(3)]
    page = with_connection(database_url, lambda connection: messages.read_page(connection, "", "a", 10, None))
    assert [stored.message.content for stored in page] == ["m0", "m1", "m2"]


def upgrade_to(url: str, newest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply the migrations up to a number."""
    every = db.migrate._migrations()
    with monkeypatch.context() as patched:
        patched.setattr(db.migrate, "_migrations", lambda: every[:newest])
        upgrade(url)


FIELDS = '{"b": 1, "aa": [{"y": 1.50, "x": "\\\\u00e9"}], "images": ["QUJD"]}'


@pytest.mark.parametrize("with_fields", [True, False])
def test_a_database_of_the_version_before_keeps_its_messages_and_replies(
    database_url: str, monkeypatch: pytest.MonkeyPatch, with_fields: bool
) -> None:
    upgrade_to(database_url, 4, monkeypatch)
    execute(
        database_url,
        f"""
        INSERT INTO chatts (username, message, appid, extra)
        SELECT CASE WHEN n % 2 = 0 THEN 'assistant' ELSE 'user' END, 'm' || n, 'a',
               CASE WHEN {with_fields} AND n % 3 = 0 THEN '{FIELDS}'::jsonb END
        FROM generate_series(1, 1000) AS n;
        INSERT INTO replies (id, tenant, appid, model, request, owner, status, error, finished, message_seq)
        SELECT id, '', 'a', 'm', '{{}}', 1, 'interrupted', 'why', now(), seq FROM chatts WHERE seq = 1000;
        INSERT INTO replies (id, tenant, appid, model, request, owner)
        VALUES ('{uuid4()}', '', 'running', 'm', '{{}}', 1);
        """,
    )
    kept = "SELECT seq, id, time, tenant, appid, username, message, extra::jsonb FROM chatts ORDER BY seq"
    before = rows(database_url, kept), rows(database_url, "SELECT id, status FROM replies ORDER BY id")
    upgrade(database_url)
    assert (rows(database_url, kept), rows(database_url, "SELECT id, status FROM replies ORDER BY id")) == before
    page = with_connection(database_url, lambda connection: messages.read_page(connection, "", "a", 5, None))
    assert [(stored.status, stored.error) for stored in page] == [(None, None)] * 4 + [("interrupted", "why")]
    with_extra = [stored.seq for stored in page if stored.message.extra is not None]
    assert with_extra == ([996, 999] if with_fields else [])

    async def go_on(connection: asyncpg.Connection) -> None:
        reply = NewReply(uuid4(), "", "a", "m", "{}", 1, None, [], 500, 1_000_000)
        [result] = await reply_begin.begin(connection, [reply])
        assert result.continues_at == len("m1000")
        ending = FinishRequest(reply.id, "", 1, "done", None, messages.Message("assistant", "!"), 0, ["end"], [])
        assert await reply_end.finish(connection, [ending]) == [FinishResult.STORED]
        [newest] = await messages.read_page(connection, "", "a", 1, None)
        assert (newest.id, newest.message.content, newest.status) == (page[-1].id, "m1000!", None)

    with_connection(database_url, go_on)


@pytest.mark.parametrize("with_fields", [True, False])
def test_sessions_of_the_version_before_go_on_after_the_migration(
    database_url: str, monkeypatch: pytest.MonkeyPatch, with_fields: bool
) -> None:
    """They have prepared statements that read and write ``extra`` as jsonb."""
    upgrade_to(database_url, 4, monkeypatch)
    record = "INSERT INTO chatts (username, message, appid, extra) SELECT 'user', 'x', 'a', unnest($1::jsonb[])"
    read = "SELECT message, extra FROM chatts WHERE appid = 'a' ORDER BY seq"

    async def run(connection: asyncpg.Connection) -> None:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        fields = [FIELDS] if with_fields else [None]
        await connection.execute(record, fields)
        before = await connection.fetch(read)
        await asyncio.to_thread(upgrade, database_url)
        assert await connection.fetch(read) == before
        await connection.execute(record, [FIELDS])
        assert json.loads((await connection.fetch(read))[-1]["extra"]) == json.loads(FIELDS)

    with_connection(database_url, run)


def test_a_second_migration_changes_nothing(database_url: str) -> None:
    upgrade(database_url)
    execute(database_url, "INSERT INTO chatts (username, message, appid) VALUES ('user', 'x', 'a')")
    before = rows(database_url, "SELECT * FROM chatts"), rows(database_url, "SELECT * FROM chatterd_migrations")
    upgrade(database_url)
    assert (
        rows(database_url, "SELECT * FROM chatts"),
        rows(database_url, "SELECT * FROM chatterd_migrations"),
    ) == before
    assert [row["number"] for row in before[1]] == [number for number, _, _ in db.migrate._migrations()]


@pytest.mark.parametrize("existing", [True, False], ids=["existing table", "empty database"])
def test_processes_can_migrate_concurrently(database_url: str, existing: bool) -> None:
    if existing:
        execute(database_url, table("as in the tutorial") + "INSERT INTO chatts VALUES ('user', 'x', NULL, now(), 'a')")

    async def migrate_concurrently() -> None:
        connections = [await asyncpg.connect(database_url) for _ in range(8)]
        try:
            await asyncio.gather(*map(migrate, connections))
        finally:
            for connection in connections:
                await connection.close()

    asyncio.run(migrate_concurrently())
    assert len(rows(database_url, "SELECT FROM chatts")) == int(existing)
    assert len(rows(database_url, "SELECT FROM chatterd_migrations WHERE number = 1")) == 1


def test_two_programs_can_start_concurrently_on_an_empty_database(
    start_chatterd: Callable[..., Program], database_url: str
) -> None:
    programs: list[Program] = []

    async def start_both() -> None:
        starts = [asyncio.to_thread(start_chatterd, database_url=database_url) for _ in range(2)]
        programs.extend(await asyncio.gather(*starts))

    asyncio.run(start_both())
    appids = []
    for program in programs:
        client = Client(program.url)
        with client.http:
            client.ask("hi")
            appids.append(client.appid)
    assert len(rows(database_url, "SELECT FROM chatts WHERE appid = ANY($1)", appids)) == 4


def test_a_failed_migration_is_rolled_back(database_url: str) -> None:
    execute(database_url, "CREATE TABLE chatts (username text, message text, id text, time timestamptz)")
    execute(database_url, "INSERT INTO chatts VALUES ('user', 'x', 'no uuid', now())")
    columns = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'chatts'"
    before = rows(database_url, columns)
    with pytest.raises(StartupError, match='invalid input syntax for type uuid: "no uuid"'):
        upgrade(database_url)
    assert rows(database_url, columns) == before
    assert rows(database_url, "SELECT FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'chatts'") == []
    execute(database_url, "UPDATE chatts SET id = NULL")
    upgrade(database_url)
    assert rows(database_url, "SELECT message FROM chatts")[0]["message"] == "x"


# Query plans.


@pytest.fixture(scope="module")
def large_database(new_database: Callable[[], str]) -> str:
    """A database with 200,000 messages, 20,000 of them in one conversation."""
    url = new_database()
    upgrade(url)
    execute(
        url,
        """
        INSERT INTO chatts (username, message, appid)
        SELECT CASE WHEN n % 1000 = 1 THEN 'system' WHEN n % 2 = 0 THEN 'user' ELSE 'assistant' END,
               repeat('word ', 20), CASE WHEN n % 10 = 0 THEN 'long' ELSE 'other' || n % 5000 END
        FROM generate_series(1, 200000) AS n;
        """,
    )
    execute(url, "VACUUM ANALYZE chatts")
    return url


PAGE = "SELECT * FROM chatts WHERE tenant = $1 AND appid = $2 ORDER BY seq DESC LIMIT $3"


class Explaining:
    """A connection that records the custom and the generic plan of each statement before executing it."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.plans: list[dict[str, Any]] = []
        self._connection = connection

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        nulls = ", ".join(["NULL"] * len(arguments))
        await self._connection.execute(f"PREPARE explained AS {query}; SET plan_cache_mode = force_generic_plan")
        for text in (
            await self._connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *arguments),
            await self._connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE explained ({nulls})"),
        ):
            self.plans.append(json.loads(text)[0]["Plan"])
        await self._connection.execute("DEALLOCATE explained; RESET plan_cache_mode")
        return list(await self._connection.fetch(query, *arguments))

    async def fetchrow(self, query: str, *arguments: Any) -> asyncpg.Record | None:
        return next(iter(await self.fetch(query, *arguments)), None)

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        row = await self.fetchrow(query, *arguments)
        return row[0] if row else None


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan] + [node for child in plan.get("Plans", []) for node in nodes(child)]


def check_index_used(url: str, work: Callable[[Any], Any]) -> None:
    """Assert that no statement executed by ``work`` scans the table ``chatts``."""

    async def run(connection: asyncpg.Connection) -> list[dict[str, Any]]:
        transaction = connection.transaction()
        await transaction.start()
        explaining = Explaining(connection)
        await work(explaining)
        await transaction.rollback()
        return explaining.plans

    plans = with_connection(url, run)
    scans = [node for plan in plans for node in nodes(plan) if node.get("Relation Name") == "chatts"]
    reads = {node["Node Type"] for node in scans} - {"ModifyTable"}
    assert reads and reads <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}


@pytest.mark.parametrize("before", [None, 100_000])
@pytest.mark.parametrize("appid", ["long", "other17", "missing"])
def test_a_page_of_history_is_read_from_the_index(large_database: str, appid: str, before: int | None) -> None:
    check_index_used(large_database, lambda connection: messages.read_page(connection, "", appid, 51, before))


@pytest.mark.parametrize("appid", ["long", "other17", "missing"])
def test_the_sizes_of_a_page_are_read_from_the_index(large_database: str, appid: str) -> None:
    def read(connection: asyncpg.Connection) -> Any:
        return messages.read_sizes(connection, "", appid, 50, messages.MAX_SEQ, 1_000_000)

    check_index_used(large_database, read)


@pytest.mark.parametrize("appid", ["long", "other17", "missing"])
def test_the_context_is_read_from_the_index(large_database: str, appid: str) -> None:
    check_index_used(large_database, lambda connection: selection.read_context(connection, "", appid, 500, 1_000_000))


@pytest.mark.parametrize("query", ["page", "context"])
def test_the_newest_messages_of_a_long_conversation_are_read_without_older_ones(
    large_database: str, query: str
) -> None:
    async def pages_read(connection: asyncpg.Connection) -> int:
        statement = selection._CONTEXT if query == "context" else PAGE
        arguments = (
            ("", "long", 500, 1_000_000, 1, messages.MAX_SEQ, 10_000_000) if query == "context" else ("", "long", 500)
        )
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
        plan = json.loads(explained)[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    whole = rows(large_database, "SELECT pg_relation_size('chatts') / 8192 AS pages")[0]["pages"]
    assert whole > 3_000
    assert with_connection(large_database, pages_read) < 1_000


def test_beginning_finishing_and_deleting_use_the_index(large_database: str) -> None:
    hi = messages.Message("user", "hi")
    new = NewReply(uuid4(), "", "long", "m", "{}", 1, "key", [hi], 500, 1_000_000)

    async def work(connection: Any) -> None:
        [result] = await reply_begin.begin(connection, [new])
        assert result.context
        message = messages.Message("assistant", "x")
        ending = FinishRequest(new.id, "", new.owner, "done", None, message, 0, ["line"], [])
        assert await reply_end.finish(connection, [ending]) == [FinishResult.STORED]
        assert await replies.find(connection, "", new.id)
        assert await messages.delete_conversation_messages(connection, "", "long", 199_000) is None

    check_index_used(large_database, work)
