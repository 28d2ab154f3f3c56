"""Tables of all editions of the course, and forms like theirs, are upgraded; their servers' statements work on."""

from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest

from db import messages, reply_begin, reply_end
from db.messages import Message
from db.migrate import migrate
from db.reply_begin import NewReply
from db.reply_end import FinishRequest, FinishResult
from tests.course import CourseServer
from tests.database import execute, rows, with_connection

LONG_APPID = "a" * 155


@dataclass(frozen=True)
class Form:
    """A form of the table.

    :ivar columns: its definition.
    :ivar role: its column of the role.
    :ivar appid: its column of the appID as an identifier; None if it has none.
    :ivar after: statements after its creation.
    :ivar kept: other columns, whose values must be kept.
    """

    columns: str
    role: str = "username"
    appid: str | None = "appid"
    id: bool = True
    after: str = ""
    kept: str = ""

    @property
    def sql(self) -> str:
        return f"CREATE TABLE chatts ({self.columns}); {self.after}"


FORMS = {
    "F25": Form("username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), appid varchar(155)"),
    "F25 without appid": Form(
        "username varchar(255) NOT NULL, message varchar(255), id uuid, time timestamptz DEFAULT now()", appid=None
    ),
    "F25 in another order": Form(
        "appid varchar(155) NOT NULL, time timestamptz DEFAULT now(), id uuid, message varchar(255),"
        " username varchar(255)"
    ),
    'F25 with "appID"': Form(
        'username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), "appID" varchar(64) NOT NULL',
        appid='"appID"',
    ),
    'F25 with "appID" and appid': Form(
        'username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), "appID" varchar(155),'
        " appid varchar(155)"
    ),
    "F25 with columns of other labs": Form(
        "username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), appid varchar(155),"
        ' toolcalls text, toolschemas text, audio text, images text, geodata text, "appName" varchar(64)',
        kept=', audio, geodata, "appName"',
    ),
    "F25 with tools as json": Form(
        "username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), appid varchar(155),"
        " toolcalls json, toolschemas json"
    ),
    "F25 with tools as jsonb and varchar": Form(
        "username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), appid varchar(155),"
        " toolschemas jsonb, toolcalls varchar(200) NOT NULL DEFAULT ''"
    ),
    "W26": Form(
        "name varchar(255) NOT NULL, message varchar(255) NOT NULL, id uuid,"
        " time timestamptz DEFAULT CURRENT_TIMESTAMP, appid varchar(64)",
        role="name",
    ),
    "W26 without NOT NULL": Form(
        "name varchar(64), message varchar(255), id uuid, time timestamptz DEFAULT CURRENT_TIMESTAMP,"
        " appid varchar(64), geodata text",
        role="name",
        kept=", geodata",
    ),
    "W26 with a default": Form(
        "name varchar(255) DEFAULT 'user', message text, id uuid, time timestamptz DEFAULT now(), appid text",
        role="name",
    ),
    'W26 with "appID"': Form(
        'name varchar(255), message varchar(255), id uuid, time timestamptz DEFAULT now(), "appID" varchar(64)',
        role="name",
        appid='"appID"',
    ),
    "2018": Form(
        "username varchar(255), message varchar(255), time timestamp DEFAULT CURRENT_TIMESTAMP", appid=None, id=False
    ),
    "char and text": Form(
        "username char(20), message char(255), id char(36), time timestamp, appid char(64)",
        after="ALTER TABLE chatts ALTER time SET DEFAULT now()",
    ),
    "id as text": Form("username text, message text, id text, time timestamptz(0) DEFAULT now(), appid text"),
    "time as text": Form("username text, message text, id uuid, time text DEFAULT now()::text, appid text"),
    "an enumeration": Form(
        "username role DEFAULT 'user', message text, id uuid, time timestamptz DEFAULT now(), appid varchar(155)"
    ),
    "keys, checks and required columns": Form(
        "number serial PRIMARY KEY, username varchar(255) NOT NULL CHECK (username <> 'nobody'),"
        " message varchar(255) NOT NULL, id uuid UNIQUE DEFAULT gen_random_uuid(), time timestamptz NOT NULL DEFAULT"
        " now(), appid varchar(64) DEFAULT 'none', geodata text NOT NULL, upper text GENERATED ALWAYS AS"
        " (upper(username)) STORED, app varchar(64) REFERENCES apps (name) DEFERRABLE INITIALLY DEFERRED",
        after="CREATE INDEX chatts_time ON chatts (time); COMMENT ON TABLE chatts IS 'ours';"
        " CREATE TABLE likes (chatt uuid REFERENCES chatts (id));"
        " ALTER TABLE chatts ALTER geodata SET DEFAULT ''",
        kept=", number, upper, geodata",
    ),
    "a trigger on each change": Form(
        "username varchar(255), message text, id uuid, time timestamptz DEFAULT now(), appid varchar(155),"
        " changes int NOT NULL DEFAULT 0, len int GENERATED ALWAYS AS (length(message)) STORED",
        after="""
            CREATE FUNCTION count_change() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN NEW.changes := OLD.changes + 1; NEW.time := now(); RETURN NEW; END $$;
            CREATE TRIGGER changed BEFORE UPDATE OF message, username ON chatts
            FOR EACH ROW WHEN (NEW.message <> '') EXECUTE FUNCTION count_change();
            CREATE VIEW seen AS SELECT message, time FROM chatts;
        """,
        kept=", changes, len",
    ),
}

BEFORE = """
    CREATE TYPE role AS ENUM ('user', 'assistant', 'system', 'tool');
    CREATE TABLE apps (name varchar(64) PRIMARY KEY);
    INSERT INTO apps VALUES ('app');
"""


def upgrade(url: str) -> None:
    with_connection(url, migrate)


def fill(url: str, form: Form) -> list[tuple[str, str, str]]:
    """Create the table and fill it; return role, text and appID of its rows in their order."""
    statements, made = [f"SET timezone = 'UTC'; {BEFORE} {form.sql}"], []
    for number in range(60):
        minute = number * 7 % 60
        role, text, appid = "assistant" if number % 2 else "user", f"m{number} \\n é😀", f"app{number % 3}"
        values = {
            form.role: f"'{role}'",
            "message": f"'{text}'",
            "time": f"timestamptz '2026-01-01 12:{minute:02}:00Z'",
        }
        if form.id:
            values["id"] = "gen_random_uuid()"
        if form.appid:
            values[form.appid] = f"'{appid}'"
        made.append((minute, role, text, appid))
        statements.append(f"INSERT INTO chatts ({', '.join(values)}) VALUES ({', '.join(values.values())})")
    execute(url, ";".join(statements))
    return [row[1:] for row in sorted(made)]


OF_THE_COURSE = [
    "F25",
    "F25 without appid",
    "F25 in another order",
    'F25 with "appID"',
    "F25 with columns of other labs",
    "W26",
    "W26 without NOT NULL",
    'W26 with "appID"',
    "2018",
    "keys, checks and required columns",
    "a trigger on each change",
]
"""The forms whose servers are tried in each run; the others are upgraded only, and tried by ``make test-all``."""


def chatterd_reply(url: str, appid: str, prompt: str, reply: str, extra: str | None = None) -> list[Message]:
    """Record a prompt and a reply with chatterd's statements; return the context before the prompt."""

    async def run(connection: asyncpg.Connection) -> list[Message]:
        new = NewReply(uuid4(), "", appid, "m", "{}", 1, None, [Message("user", prompt)], 500, 1_000_000)
        [begun] = await reply_begin.begin(connection, [new])
        ending = FinishRequest(new.id, "", 1, "done", None, Message("assistant", reply, extra), 0, ["end"], [])
        assert await reply_end.finish(connection, [ending]) == [FinishResult.STORED]
        assert begun.context is not None
        return begun.context

    return with_connection(url, run)


def page(url: str, appid: str) -> list[tuple[str, str]]:
    stored = with_connection(url, lambda connection: messages.read_page(connection, "", appid, 500, None))
    return [(row.message.role, row.message.content) for row in stored]


STATE = """
    SELECT 'row', seq::text, ctid::text, xmin::text FROM chatts UNION ALL
    SELECT 'column', attname, '', xmin::text FROM pg_attribute WHERE attrelid = 'chatts'::regclass UNION ALL
    SELECT 'function', proname, '', xmin::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace UNION ALL
    SELECT 'trigger', tgname, '', xmin::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2
"""
"""Everything that an unnecessary change would change."""


@pytest.mark.parametrize("name", FORMS)
def test_each_row_is_kept_in_its_order_and_the_next_start_changes_nothing(database_url: str, name: str) -> None:
    form = FORMS[name]
    made = fill(database_url, form)
    columns = f"trim({form.role}::text), trim(message::text), time::timestamptz{', id::text' if form.id else ''}"
    kept = f"SELECT {columns}{form.kept} FROM chatts ORDER BY"
    before = rows(database_url, f"{kept} time")
    upgrade(database_url)
    assert rows(database_url, f"{kept} seq") == before
    assert [row["seq"] for row in rows(database_url, "SELECT seq FROM chatts ORDER BY time")] == list(range(1, 61))
    if form.appid:
        for appid in ("app0", "app1", "app2"):
            assert page(database_url, appid) == [row[:2] for row in made if row[2] == appid]
    with pytest.raises(asyncpg.NotNullViolationError):  # the tutorial's test of the error event
        CourseServer(database_url, form.role, form.appid or "appID").record(None, "x", "a")

    state = rows(database_url, STATE)
    upgrade(database_url)
    assert rows(database_url, STATE) == state
    other_columns = form.role == "name" or "appID" in form.columns or "toolcalls" in form.columns
    assert ("trigger", "chatts_equal_columns") in {row[:2] for row in state} or not other_columns
    assert other_columns or "chatts_equal_columns" not in {row[1] for row in state}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OF_THE_COURSE else pytest.mark.extended) for name in FORMS]
)
def test_statements_of_the_courses_servers_and_of_chatterd_alternate(database_url: str, name: str) -> None:
    form = FORMS[name]
    made = fill(database_url, form)
    upgrade(database_url)
    server = CourseServer(database_url, form.role, form.appid or "appID")
    expected = [row[:2] for row in made if row[2] == "app1" and form.appid]
    for turn in range(2):
        server.record("user", f"old prompt {turn}", "app1")
        server.record("assistant", f"old reply {turn}", "app1")
        expected += [("user", f"old prompt {turn}"), ("assistant", f"old reply {turn}")]
        context = chatterd_reply(database_url, "app1", f"prompt {turn}", "long " * 100)
        assert [(message.role, message.content) for message in context] == expected
        expected += [("user", f"prompt {turn}"), ("assistant", "long " * 100)]
        assert server.history("app1") == expected
    assert page(database_url, "app1") == expected

    count = len(rows(database_url, "SELECT FROM chatts"))
    server.postchatt("me", "hello")
    assert len(chatts := server.getchatts()) == count + 1
    assert chatts[-1][:2] == ("me", "hello")
    [row] = rows(database_url, "SELECT appid FROM chatts WHERE username = 'me'")
    assert row["appid"] == ("none" if "DEFAULT 'none'" in form.columns else None)

    chatterd_reply(database_url, LONG_APPID, "hi", "hello")
    assert server.history(LONG_APPID) == [("user", "hi"), ("assistant", "hello")]
    server.prep("app1", ("system", "be brief"))
    assert page(database_url, "app1") == server.history("app1") == [("system", "be brief")]
    execute(database_url, "TRUNCATE chatts CASCADE" if "REFERENCES chatts" in form.after else "TRUNCATE chatts")
    assert (page(database_url, LONG_APPID), server.getchatts()) == ([], [])
    chatterd_reply(database_url, "app1", "again", "and again")
    assert server.history("app1") == [("user", "again"), ("assistant", "and again")]


POSITIONAL = {
    "F25": ("app1", "username", "'user', 'hi', gen_random_uuid(), now(), 'app1'"),
    "F25 in another order": ("app1", "username", "'app1', now(), gen_random_uuid(), 'hi', 'user'"),
    "W26": ("app1", "name", "'user', 'hi', gen_random_uuid(), DEFAULT, 'app1'"),
    'W26 with "appID"': ("app1", "name", "'user', 'hi', gen_random_uuid(), now(), 'app1'"),
    "2018": (None, "username", "'user', 'hi', now()"),
}


@pytest.mark.parametrize("name", POSITIONAL)
def test_an_insert_without_column_names_works_on(database_url: str, name: str) -> None:
    appid, role, values = POSITIONAL[name]
    execute(database_url, f"{BEFORE} {FORMS[name].sql}")
    upgrade(database_url)
    execute(database_url, f"INSERT INTO chatts VALUES ({values})")
    [row] = rows(database_url, f"SELECT username, {role} AS role, message, appid FROM chatts")
    assert tuple(row) == ("user", "user", "hi", appid)
