"""A table left by the reference becomes ours with every row kept; a query on it costs the same however large it is."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from db import chatts, conversations, replies
from db.migrate import migrate
from db.replies import NewReply
from tests.client import Client
from tests.database import execute, rows, with_connection
from tests.fakes.ollama import ScriptedOllama
from tests.program import Program

# The tutorial's table as people have made it: with or without appid, and with the types that its versions named.
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
def test_a_table_of_the_reference_keeps_every_row_and_their_order_by_time(database_url: str, shape: str) -> None:
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


def test_rows_of_the_same_time_keep_the_order_in_which_they_came(database_url: str) -> None:
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


def test_an_upgraded_conversation_goes_on(
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
    assert [message["content"] for message in ollama.requests[0].json["messages"]] == ["hi", "hello", "x" * 1000]


def test_the_reference_can_go_on_with_an_upgraded_table(database_url: str) -> None:
    execute(database_url, table("as in the tutorial"))
    upgrade(database_url)
    for number in range(3):
        execute(
            database_url,
            "INSERT INTO chatts (username, message, id, appID)"
            f" VALUES ('user', 'm{number}', gen_random_uuid(), 'a')",
        )
    found = rows(database_url, "SELECT username, message FROM chatts WHERE appID = 'a' ORDER BY time ASC")
    assert [tuple(row) for row in found] == [("user", f"m{number}") for number in range(3)]
    page = with_connection(database_url, lambda connection: chatts.page(connection, "", "a", 10, None))
    assert [recorded.message.content for recorded in page] == ["m0", "m1", "m2"]


def test_migrating_again_changes_nothing(database_url: str) -> None:
    upgrade(database_url)
    execute(database_url, "INSERT INTO chatts (username, message, appid) VALUES ('user', 'x', 'a')")
    before = rows(database_url, "SELECT * FROM chatts"), rows(database_url, "SELECT * FROM chatterd_migrations")
    upgrade(database_url)
    assert (rows(database_url, "SELECT * FROM chatts"), rows(database_url, "SELECT * FROM chatterd_migrations")) == before
    assert [row["number"] for row in before[1]] == list(range(1, len(before[1]) + 1))


@pytest.mark.parametrize("old", [True, False], ids=["an old table", "an empty database"])
def test_many_can_migrate_at_once(database_url: str, old: bool) -> None:
    if old:
        execute(database_url, table("as in the tutorial") + "INSERT INTO chatts VALUES ('user', 'x', NULL, now(), 'a')")

    async def migrate_at_once() -> None:
        connections = [await asyncpg.connect(database_url) for _ in range(8)]
        try:
            await asyncio.gather(*map(migrate, connections))
        finally:
            for connection in connections:
                await connection.close()

    asyncio.run(migrate_at_once())
    assert len(rows(database_url, "SELECT FROM chatts")) == int(old)
    assert len(rows(database_url, "SELECT FROM chatterd_migrations WHERE number = 1")) == 1


def test_two_programs_can_start_at_once_on_a_fresh_database(
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


def test_a_migration_that_is_refused_leaves_no_trace(database_url: str) -> None:
    execute(database_url, "CREATE TABLE chatts (username text, message text, id text, time timestamptz)")
    execute(database_url, "INSERT INTO chatts VALUES ('user', 'x', 'no uuid', now())")
    columns = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'chatts'"
    before = rows(database_url, columns)
    with pytest.raises(asyncpg.PostgresError):
        upgrade(database_url)
    assert rows(database_url, columns) == before
    assert rows(database_url, "SELECT FROM chatterd_migrations") == []
    execute(database_url, "UPDATE chatts SET id = NULL")
    upgrade(database_url)
    assert rows(database_url, "SELECT message FROM chatts")[0]["message"] == "x"


# What queries cost. The plan is taken from the statements as they run (auto_explain), not from copies of them.


@pytest.fixture(scope="module")
def large_database(new_database: Callable[[], str]) -> str:
    """A conversation of 20,000 messages within 200,000 rows."""
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


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan] + [node for child in plan.get("Plans", []) for node in nodes(child)]


def plans(url: str, work: Callable[[asyncpg.Connection], Any]) -> list[dict[str, Any]]:
    """The plans of the statements that ``work`` runs, with what they really read."""
    logged: list[str] = []

    async def run(connection: asyncpg.Connection) -> None:
        connection.add_log_listener(lambda _, message: logged.append(str(message.message)))
        await connection.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;"
            "SET auto_explain.log_format = json; SET auto_explain.log_buffers = on; SET client_min_messages = log"
        )
        logged.clear()
        await work(connection)
        await connection.execute("SET client_min_messages = error")

    with_connection(url, run)
    return [json.loads(text[text.index("{") :])["Plan"] for text in logged if text.startswith("duration:")]


def check_cheap(found: list[dict[str, Any]], buffers: int) -> None:
    """No table is read from end to end, and few pages are touched."""
    assert found
    for plan in found:
        scans = [node for node in nodes(plan) if node.get("Relation Name") == "chatts"]
        assert scans
        assert "Seq Scan" not in {node["Node Type"] for node in scans}
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < buffers


@pytest.mark.parametrize("before", [None, 100_000])
@pytest.mark.parametrize("appid", ["long", "other17", "nobody"])
def test_a_page_of_history_is_read_from_the_index(large_database: str, appid: str, before: int | None) -> None:
    found = plans(large_database, lambda connection: chatts.page(connection, "", appid, 51, before))
    check_cheap(found, buffers=200)


@pytest.mark.parametrize("appid", ["long", "other17", "nobody"])
def test_the_context_is_read_from_the_index(large_database: str, appid: str) -> None:
    found = plans(large_database, lambda connection: chatts.context(connection, "", appid, 500, 1_000_000))
    check_cheap(found, buffers=1_500)


def test_beginning_and_finishing_and_forgetting_use_the_index(large_database: str) -> None:
    from uuid import uuid4

    new = NewReply(uuid4(), "", "long", "m", "{}", 1, "key")

    async def work(connection: asyncpg.Connection) -> None:
        transaction = connection.transaction()
        await transaction.start()
        await replies.begin(connection, new, [chatts.Message("user", "hi")], 500, 1_000_000)
        await replies.finish(connection, new.id, "", "done", None, chatts.Message("assistant", "x"))
        await replies.find(connection, "", new.id)
        await conversations.forget(connection, "", "long", 199_000)
        await transaction.rollback()

    for plan in plans(large_database, work):
        reads = [node for node in nodes(plan) if node.get("Relation Name") == "chatts"]
        assert "Seq Scan" not in {node["Node Type"] for node in reads}
