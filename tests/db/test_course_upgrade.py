"""Around the upgrade of the course's tables: columns for tools, earlier versions, rights, schemas, locks, refusals."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from db.messages import EXTRA_BYTES
from db.migrate import FOLDER, migrate
from db.tutorial_table import alteration
from errors import StartupError
from tests.course import CourseServer
from tests.database import execute, rows, with_connection

F25 = "username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), appid varchar(64)"
W26 = "name varchar(255), message varchar(255), id uuid, time timestamptz DEFAULT now(), appid varchar(64)"


def upgrade(url: str) -> None:
    with_connection(url, migrate)


def create(columns: str = F25) -> str:
    return f"CREATE TABLE chatts ({columns});"


# Columns for tools.

CALLS = '[{"function": {"name": "getWeather", "arguments": {"lon": "1", "lat": "2"}}}]'
NOT_CALLS = ["", "[]", "{}", "null", "not JSON", "[1]", '[{"function": {}}]', '["\\u0000"]', "[" * 20_000]
OPENAI_CALLS = '[{"function": {"name": "f", "arguments": "{}"}}]'
"""Arguments as a string, as OpenAI has them: Ollama would reject the whole conversation."""


def tool_calls(url: str) -> dict[str, str | None]:
    """Return the tool calls that chatterd sends to the model, by the message's text."""
    found = rows(url, "SELECT message, extra FROM chatts ORDER BY seq")
    return {row["message"]: row["extra"] and json.dumps(json.loads(row["extra"])["tool_calls"]) for row in found}


@pytest.mark.parametrize("kind", ["text", "json", "jsonb", "varchar(255)"])
def test_tool_calls_of_either_server_are_seen_by_the_other(database_url: str, kind: str) -> None:
    execute(database_url, create(f"{F25}, toolcalls {kind}, toolschemas {kind}"))
    server = CourseServer(database_url)
    server.record_tools("user", "weather?", "a", "toolschemas", "[]")
    server.record_tools("assistant", "before", "a", "toolcalls", CALLS)
    upgrade(database_url)
    server.record_tools("assistant", "after", "a", "toolcalls", CALLS)
    expected = json.loads(CALLS)
    found = tool_calls(database_url)
    assert found.pop("weather?") is None
    assert [json.loads(calls or "") for calls in found.values()] == [expected, expected]
    if kind != "jsonb":  # which sorts keys by their length
        assert list(found.values()) == [CALLS, CALLS]

    long = [{"function": {"name": "f", "arguments": {"text": "x" * 1000}}, "id": "call_1"}]
    extra = json.dumps({"thinking": "hm", "tool_calls": long})
    insert = "INSERT INTO chatts (username, message, appid, extra) VALUES ('assistant', 'ours', 'a', $1)"
    rows(database_url, insert, extra)
    assert rows(database_url, "SELECT extra::text FROM chatts WHERE message = 'ours'")[0][0] == extra
    role, message, calls, schemas = server.history_with_tools("a")[-1]
    assert (role, message, json.loads(calls or ""), schemas) == ("assistant", "ours", long, None)


def test_tool_calls_that_another_server_adds_to_a_message_count_in_the_context(database_url: str) -> None:
    execute(database_url, create(f"{F25}, toolcalls text"))
    upgrade(database_url)
    ours = "('assistant', 'ours', 'a', '{\"thinking\":\"hm\"}', 17)"
    execute(database_url, f"INSERT INTO chatts (username, message, appid, extra, extra_bytes) VALUES {ours}")
    rows(database_url, "UPDATE chatts SET toolcalls = $1", CALLS)
    [(counted, extra)] = rows(database_url, f"SELECT {EXTRA_BYTES}, extra FROM chatts")
    assert json.loads(extra) == {"thinking": "hm", "tool_calls": json.loads(CALLS)}
    assert counted >= len(extra)


def test_what_is_no_tool_call_is_kept_and_never_reaches_the_model(database_url: str) -> None:
    execute(database_url, create(f"{F25}, toolcalls text"))
    server = CourseServer(database_url)
    server.record_tools("assistant", "before", "a", "toolcalls", NOT_CALLS[0])
    for calls in NOT_CALLS:
        server.record_tools("assistant", calls, "a", "toolcalls", calls)
    server.record_tools("assistant", "OpenAI's", "a", "toolcalls", OPENAI_CALLS)
    upgrade(database_url)
    for calls in NOT_CALLS:
        server.record_tools("assistant", calls, "a", "toolcalls", calls)
    assert set(tool_calls(database_url).values()) == {None}
    kept = [row["toolcalls"] for row in rows(database_url, "SELECT toolcalls FROM chatts ORDER BY seq")]
    assert kept == [NOT_CALLS[0], *NOT_CALLS, OPENAI_CALLS, *NOT_CALLS]


def test_columns_added_after_the_upgrade_are_found_at_the_next_start(database_url: str) -> None:
    """The tutorial on tools adds its columns to the table of the one before."""
    execute(database_url, create())
    upgrade(database_url)
    extra = json.dumps({"tool_calls": json.loads(CALLS)})
    rows(database_url, "INSERT INTO chatts (username, message, appid, extra) VALUES ('assistant', '', 'a', $1)", extra)
    execute(database_url, "ALTER TABLE chatts ADD toolcalls json, ADD toolschemas json")
    upgrade(database_url)
    server = CourseServer(database_url)
    assert server.history_with_tools("a") == [("assistant", "", CALLS, None)]
    server.record_tools("assistant", "x", "a", "toolcalls", CALLS)
    assert tool_calls(database_url)["x"] == CALLS
    execute(database_url, "ALTER TABLE chatts RENAME toolcalls TO calls")
    upgrade(database_url)
    server.record("user", "no column, no trigger", "a")
    assert rows(database_url, "SELECT FROM pg_proc WHERE proname = 'chatts_equal_columns'") == []


# Other columns.


def test_a_change_of_either_column_reaches_the_other(database_url: str) -> None:
    execute(database_url, create(W26))
    upgrade(database_url)
    server = CourseServer(database_url, "name")
    server.record("user", "x", "a")
    for statement, expected in (
        ("name = 'tool'", "tool"),
        ("username = 'system'", "system"),
        ("username = 'user', name = 'tool'", "user"),
        ("message = 'y'", "user"),
    ):
        execute(database_url, f"UPDATE chatts SET {statement}")
        assert tuple(rows(database_url, "SELECT username, name FROM chatts")[0]) == (expected, expected)
    for column in ("username", "name"):
        with pytest.raises(asyncpg.NotNullViolationError):
            execute(database_url, f"UPDATE chatts SET {column} = NULL")


def test_a_column_with_values_of_its_own_is_left_alone(database_url: str) -> None:
    execute(
        database_url,
        f"""CREATE TABLE chatts ({F25}, name text NOT NULL, "AppID" int);
        INSERT INTO chatts VALUES
            ('user', 'hi', NULL, now(), 'a', 'Ann', 7), ('tool', 'hi', NULL, now(), 'a', 'Ann', NULL)
        """,
    )
    upgrade(database_url)
    CourseServer(database_url).record("assistant", "hello", "a")  # chatterd's statements give no name, either
    kept = rows(database_url, 'SELECT username, name, "AppID" FROM chatts ORDER BY seq')
    assert [tuple(row) for row in kept] == [("user", "Ann", 7), ("tool", "Ann", None), ("assistant", None, None)]


def test_duplicate_ids_and_nulls_are_kept(database_url: str) -> None:
    one = "00000000-0000-0000-0000-000000000001"
    values = ", ".join(f"('{role}', 'm', '{one}', now(), 'a')" for role in ("user", "assistant"))
    execute(database_url, f"{create(W26)} INSERT INTO chatts VALUES {values}, (NULL, NULL, NULL, NULL, NULL)")
    upgrade(database_url)
    kept = rows(database_url, "SELECT username, name, message, id::text, appid FROM chatts ORDER BY seq")
    assert [tuple(row) for row in kept[:2]] == [
        ("user", "user", "m", one, "a"),
        ("assistant", "assistant", "m", one, "a"),
    ]
    assert (kept[2]["username"], kept[2]["name"], kept[2]["message"], kept[2]["appid"]) == ("", "", "", None)


def test_a_table_of_many_rows_is_not_rewritten_for_a_wider_column(database_url: str) -> None:
    """Once chatterd has upgraded it: the first upgrade numbers the rows."""
    migrated_by_an_earlier_version(database_url, create())
    file = "SELECT pg_relation_filenode('chatts')"
    before = rows(database_url, file)
    upgrade(database_url)
    assert rows(database_url, file) == before
    CourseServer(database_url).record("user", "x", "a" * 155)


# Databases that an earlier version has migrated.


def migrated_by_an_earlier_version(url: str, table: str) -> None:
    """Apply the migrations up to 0006 as the versions before 0007 did: the files only."""
    execute(url, table)
    execute(
        url, "CREATE TABLE chatterd_migrations (number int PRIMARY KEY, name text, applied timestamptz DEFAULT now())"
    )
    for file in sorted(FOLDER.glob("*.sql"))[:6]:
        execute(url, file.read_text())
        execute(url, f"INSERT INTO chatterd_migrations VALUES ({int(file.name[:4])}, '{file.stem}')")


def test_a_database_of_an_earlier_version_finds_its_quoted_conversations_and_tool_calls(database_url: str) -> None:
    columns = 'username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), "appID" varchar(64)'
    insert = f"""INSERT INTO chatts VALUES ('user', 'm1', NULL, now(), 'a', NULL),
        ('assistant', 'm2', NULL, now(), 'a', '{CALLS}')"""
    migrated_by_an_earlier_version(database_url, f"{create(columns + ', toolcalls text')} {insert}")
    execute(database_url, "INSERT INTO chatts (username, message, appid) VALUES ('user', 'm3', 'a')")
    execute(database_url, "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    execute(database_url, "CREATE TRIGGER no BEFORE UPDATE ON chatts FOR EACH ROW EXECUTE FUNCTION no()")
    upgrade(database_url)
    messages = [("user", "m1"), ("assistant", "m2"), ("user", "m3")]
    for appid in ("appid", '"appID"'):
        assert CourseServer(database_url, appid=appid).history("a") == messages
    assert tool_calls(database_url) == {"m1": None, "m2": CALLS, "m3": None}
    assert rows(database_url, "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'no'")[0][0] == "O"


# Schemas of the search path.


def test_the_table_is_found_wherever_it_is_on_the_search_path(database_url: str) -> None:
    execute(database_url, f"CREATE SCHEMA postgres; {create().replace('chatts', 'public.chatts')}")
    execute(database_url, "INSERT INTO public.chatts VALUES ('user', 'hi', NULL, now(), 'a')")
    upgrade(database_url)  # search_path is "$user", public: new tables without a schema would go into postgres
    upgrade(database_url)
    schemas = rows(database_url, "SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname IN ('public', 'postgres')")
    assert [row[0] for row in schemas] == ["public"]
    assert CourseServer(database_url).history("a") == [("user", "hi")]


def test_a_start_that_failed_before_does_not_matter(database_url: str) -> None:
    """Versions before 0007 left an empty table of migrations, in the first schema of the search path."""
    execute(
        database_url,
        f"""{create()} CREATE SCHEMA postgres;
        CREATE TABLE postgres.chatterd_migrations (number int PRIMARY KEY, name text, applied timestamptz DEFAULT now())
        """,
    )
    for _ in range(2):
        upgrade(database_url)
    CourseServer(database_url).record("user", "hi", "a")
    tables = rows(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'postgres'")
    assert [row[0] for row in tables] == ["chatterd_migrations"]


def test_a_schema_that_is_made_after_the_tables_changes_nothing(database_url: str) -> None:
    upgrade(database_url)
    execute(database_url, "CREATE SCHEMA postgres")
    upgrade(database_url)
    assert rows(database_url, "SELECT FROM pg_tables WHERE schemaname = 'postgres'") == []


def test_a_schema_and_a_table_with_odd_names_are_quoted(database_url: str) -> None:
    execute(database_url, 'CREATE SCHEMA "My ""own"""; ALTER ROLE CURRENT_USER RESET search_path')
    database = rows(database_url, "SELECT quote_ident(current_database())")[0][0]
    execute(database_url, f'ALTER DATABASE {database} SET search_path = "My ""own""", public')
    execute(database_url, create(f'{W26}, "tool""CALLS$body$" text, "toolCalls" text, "Na""me" text'))
    upgrade(database_url)
    server = CourseServer(database_url, "name")
    server.record("user", "hi", "a")
    assert CourseServer(database_url).history("a") == server.history("a") == [("user", "hi")]
    assert rows(database_url, "SELECT FROM pg_tables WHERE schemaname = 'public'") == []


# Forms that are refused with a sentence, and unchanged.

REFUSED = {
    "a view": (
        f"CREATE TABLE t ({F25}); CREATE VIEW chatts AS SELECT * FROM t",
        r"^public\.chatts is a view, and chatterd needs an ordinary table\. Rename it \(ALTER TABLE public\.chatts R",
        "ALTER TABLE public.chatts RENAME TO old_chatts",
    ),
    "a materialized view": (
        f"CREATE TABLE t ({F25}); CREATE MATERIALIZED VIEW chatts AS SELECT * FROM t",
        "is a materialized view",
        "ALTER TABLE public.chatts RENAME TO old_chatts",
    ),
    "a partitioned table": (
        f"CREATE TABLE chatts ({F25}) PARTITION BY LIST (appid)",
        "is a partitioned table",
        "ALTER TABLE public.chatts RENAME TO old_chatts",
    ),
    "a table with heirs": (
        f"{create()} CREATE TABLE heir () INHERITS (chatts)",
        "inherits from another table or is inherited by one",
        "ALTER TABLE public.chatts RENAME TO old_chatts",
    ),
    "a rule": (
        f"{create()} CREATE RULE twice AS ON INSERT TO chatts DO ALSO NOTIFY chatts",
        r"has rules.*DROP RULE twice ON public\.chatts;",
        "DROP RULE twice ON public.chatts",
    ),
    "a column seq": (
        create(f"{F25}, seq serial"),
        r"has a column seq.*ALTER TABLE public\.chatts RENAME COLUMN seq TO old_seq;",
        "ALTER TABLE public.chatts RENAME COLUMN seq TO old_seq; ALTER SEQUENCE chatts_seq_seq RENAME TO old_seq",
    ),
    "a generated message": (
        "CREATE TABLE chatts (username text, body text, message text GENERATED ALWAYS AS (upper(body)) STORED)",
        "message of the table public.chatts is generated",
        "ALTER TABLE public.chatts RENAME COLUMN message TO old_message",
    ),
    "a number as id": (
        "CREATE TABLE chatts (username text, message text, id serial PRIMARY KEY, time timestamp)",
        "has the type integer, and chatterd needs uuid.*ALTER TABLE chatts RENAME COLUMN id TO old_id;",
        "ALTER TABLE chatts RENAME COLUMN id TO old_id",
    ),
    "a number as time": (
        "CREATE TABLE chatts (username text, message text, time bigint)",
        "has the type bigint, and chatterd needs timestamptz.*RENAME COLUMN",
        'ALTER TABLE chatts RENAME COLUMN "time" TO old_time',
    ),
    "a text as id": (
        f"{create(F25.replace('id uuid', 'id text'))} INSERT INTO chatts VALUES ('user', 'x', 'x1', now(), 'a')",
        r"cannot be converted.*\"x1\".*ALTER TABLE public\.chatts RENAME COLUMN id TO old_id;",
        "ALTER TABLE public.chatts RENAME COLUMN id TO old_id",
    ),
    "a key without a value": (
        create(f"{F25}, number int PRIMARY KEY"),
        r"number belongs to the primary key.*ALTER COLUMN number SET DEFAULT",
        "CREATE SEQUENCE numbers; ALTER TABLE chatts ALTER COLUMN number SET DEFAULT nextval('numbers')",
    ),
    "a view on a column of another type": (
        f"{create(W26)} CREATE VIEW seen AS SELECT message FROM chatts",
        r"rule _RETURN on view seen depends on column \"message\".*Drop what depends on it",
        "DROP VIEW seen",
    ),
    "a name that is taken": (
        f"{create()} CREATE TABLE replies (id int)",
        'relation "replies" already exists. Rename it',
        "ALTER TABLE replies RENAME TO old_replies",
    ),
    "a check that chatterd's rows violate": (
        f"{create(F25.replace('message text', 'message text CHECK (message <> $$$$)'))}"
        " INSERT INTO chatts VALUES ('user', NULL, NULL, now(), 'a')",
        "violates check constraint",
        "UPDATE chatts SET message = 'x'",
    ),
}

SCHEMA = """
    SELECT relname, relkind::text, attname, format_type(atttypid, atttypmod), attnotnull
    FROM pg_class LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
    WHERE relnamespace = 'public'::regnamespace ORDER BY 1, attnum
"""


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_upgraded_is_told_and_left_as_it_was(database_url: str, name: str) -> None:
    statements, sentence, remedy = REFUSED[name]
    execute(database_url, statements)
    before = rows(database_url, SCHEMA)
    with pytest.raises(StartupError, match=sentence) as raised:
        upgrade(database_url)
    assert "\n" not in str(raised.value)
    assert rows(database_url, SCHEMA) == before
    execute(database_url, remedy)
    upgrade(database_url)
    CourseServer(database_url).record("user", "hi", "a")


# Sessions that use the table meanwhile.


def test_sessions_of_the_courses_servers_go_on(database_url: str) -> None:
    """Their connections stay open over the upgrade, with prepared statements."""
    execute(database_url, create(W26))

    async def run(connection: asyncpg.Connection) -> None:
        insert = "INSERT INTO chatts (name, message, id, appID) VALUES ($1, $2, gen_random_uuid(), $3)"
        select = "SELECT name, message FROM chatts WHERE appID = $1 ORDER BY time ASC"
        for turn in range(2):
            await connection.execute(insert, "user", f"m{turn}", "a")
            assert len(await connection.fetch(select, "a")) == turn + 1
            await asyncio.to_thread(upgrade, database_url)
        assert [row["message"] for row in await connection.fetch(select, "a")] == ["m0", "m1"]

    with_connection(database_url, run)


def test_no_message_is_lost_that_a_server_writes_during_the_upgrade(database_url: str) -> None:
    execute(database_url, create(W26) + "INSERT INTO chatts SELECT 'user', n::text FROM generate_series(1, 20000) AS n")
    upgraded = threading.Event()

    def write() -> int:
        server, number = CourseServer(database_url, "name"), 0
        while not upgraded.is_set() or number < 20:
            server.record("user", f"m{number}", "a")
            number += 1
        return number

    with ThreadPoolExecutor() as threads:
        writers = [threads.submit(write) for _ in range(3)]
        upgrade(database_url)
        upgraded.set()
        written = sum(writer.result() for writer in writers)
    counted = "SELECT count(*), count(DISTINCT seq), count(username), min(seq), max(seq) - count(*) FROM chatts"
    assert tuple(rows(database_url, counted)[0]) == (20_000 + written, 20_000 + written, 20_000 + written, 1, 0)


def test_a_transaction_that_does_not_end_is_named(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(database_url, create())
    monkeypatch.setattr(alteration, "LOCK_TIMEOUT", 0.1)

    async def run(connection: asyncpg.Connection) -> int:
        async with connection.transaction():
            await connection.fetch("SELECT * FROM chatts")
            with pytest.raises(StartupError) as raised:
                await asyncio.to_thread(upgrade, database_url)
            pid = connection.get_server_pid()
            assert f"{pid} (no name, idle in transaction). SELECT pg_terminate_backend({pid});" in str(raised.value)
            return int(pid)

    with_connection(database_url, run)
    upgrade(database_url)
