"""A role that may not upgrade or use the tables is told which statements an administrator has to run."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest

from db.migrate import migrate
from db.tutorial_table.privileges import OWN_TABLES, check_privileges
from errors import StartupError
from tests.course import CourseServer
from tests.database import execute, rows, with_connection
from tests.program import ROOT, Program

TABLE = """
    CREATE TYPE role AS ENUM ('user', 'assistant');
    CREATE TABLE chatts (username role, message text, id uuid, time timestamptz DEFAULT now(), appid varchar(64));
    INSERT INTO chatts VALUES ('user', 'hi', NULL, now(), 'a');
    REVOKE USAGE ON TYPE role FROM PUBLIC;
"""

_numbers = itertools.count()


def upgrade(url: str) -> None:
    with_connection(url, migrate)


class Roles:
    """Roles of one test: the server has them for all databases."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.names: list[str] = []

    def create(self, prefix: str) -> tuple[str, str]:
        """Create a role; return its identifier and the database's URL for it."""
        name = f"{prefix}_{os.getpid()}_{next(_numbers)}"
        identifier = name if re.fullmatch("[a-z_0-9]+", name) else '"' + name.replace('"', '""') + '"'
        self.names.append(identifier)
        execute(self.url, f"CREATE ROLE {identifier} LOGIN")
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return identifier, urlunsplit(parts._replace(netloc=f"{quote(name)}@{host}"))

    def drop(self) -> None:
        for identifier in self.names:
            execute(self.url, f"DROP OWNED BY {identifier} CASCADE; DROP ROLE {identifier}")


@pytest.fixture
def roles(database_url: str) -> Iterator[Roles]:
    roles = Roles(database_url)
    yield roles
    roles.drop()


def rejected(url: str) -> str:
    """Start; return the statements that the error names."""
    with pytest.raises(StartupError) as raised:
        upgrade(url)
    sentence, _, statements = str(raised.value).partition(": ")
    assert "As an administrator of PostgreSQL, run in the database" in sentence
    assert "\n" not in statements
    return statements


@pytest.mark.expects_log("cannot start")
def test_the_program_names_two_statements_and_starts_after_them(
    start_chatterd: Callable[..., Program], database_url: str, roles: Roles
) -> None:
    chatter, url = roles.create("chatter")
    execute(database_url, f"{TABLE} GRANT ALL ON ALL TABLES IN SCHEMA public TO {chatter}")
    ended = subprocess.run(
        [sys.executable, "server.py", "--port=0", f"--database-url={url}"], cwd=ROOT, capture_output=True, text=True
    )
    statements = f"ALTER TABLE chatts OWNER TO {chatter}; GRANT CREATE ON SCHEMA public TO {chatter};"
    database = rows(database_url, "SELECT quote_ident(current_database())")[0][0]
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        "chatterd cannot start: must be owner of table chatts. As an administrator of PostgreSQL, run in the database"
        f" {database}: {statements}"
    )
    assert "Traceback" not in ended.stderr
    execute(database_url, statements)
    program = start_chatterd(database_url=url)
    assert CourseServer(url).history("a") == [("user", "hi")]
    CourseServer(database_url).record("assistant", "hello", "a")
    assert program.terminate() == 0  # before its role is dropped


def test_an_empty_database_in_which_the_role_may_not_create(database_url: str, roles: Roles) -> None:
    chatter, url = roles.create("chatter")
    assert rejected(url) == f"GRANT CREATE ON SCHEMA public TO {chatter};"
    execute(database_url, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
    statements = rejected(url)
    assert statements == f"GRANT USAGE, CREATE ON SCHEMA public TO {chatter};"
    execute(database_url, statements)
    upgrade(url)


def test_names_are_quoted(database_url: str, roles: Roles) -> None:
    chatter, url = roles.create('Chat "ter"')
    database = rows(database_url, "SELECT quote_ident(current_database())")[0][0]
    execute(database_url, f'CREATE SCHEMA "A b"; ALTER DATABASE {database} SET search_path = "A b", public')
    execute(database_url, TABLE)
    execute(database_url, f'GRANT USAGE ON SCHEMA "A b" TO {chatter}')
    statements = rejected(url)
    assert statements == f'ALTER TABLE "A b".chatts OWNER TO {chatter}; GRANT CREATE ON SCHEMA "A b" TO {chatter};'
    execute(database_url, statements)
    upgrade(url)
    assert rows(database_url, 'SELECT count(*) FROM "A b".chatts')[0][0] == 1


def test_the_former_owner_may_go_on(database_url: str, roles: Roles) -> None:
    chatter, url = roles.create("chatter")
    owner, owners_url = roles.create("student")
    execute(database_url, f"GRANT CREATE ON SCHEMA public TO {owner}, {chatter}")
    execute(owners_url, TABLE)
    statements = rejected(url)
    assert statements == f"ALTER TABLE chatts OWNER TO {chatter}; GRANT ALL ON chatts TO {owner};"
    execute(database_url, statements)
    upgrade(url)
    server = CourseServer(owners_url)
    server.record("assistant", "hello", "a")  # uses the sequence of chatterd's
    assert server.history("a") == [("user", "hi"), ("assistant", "hello")]
    upgrade(url)


def test_every_role_that_may_insert_goes_on(database_url: str, roles: Roles) -> None:
    _, url = roles.create("student")
    _, another = roles.create("student")
    columns = "username, message, id, appid"
    execute(
        database_url,
        f"""{TABLE} GRANT SELECT ON chatts TO PUBLIC; GRANT INSERT ON chatts TO {roles.names[0]};
        GRANT INSERT ({columns}) ON chatts TO {roles.names[1]}""",
    )
    upgrade(database_url)
    for student in (url, another):
        CourseServer(student).record("user", "x", "a")
    execute(database_url, "GRANT INSERT ON chatts TO PUBLIC")
    upgrade(database_url)
    _, third = roles.create("student")
    CourseServer(third).record("user", "x", "a")


def test_tables_that_another_role_has_migrated(database_url: str, roles: Roles) -> None:
    chatter, url = roles.create("chatter")
    execute(database_url, "CREATE SEQUENCE numbers")
    execute(database_url, TABLE + "ALTER TABLE chatts ADD number int DEFAULT nextval('numbers')")
    upgrade(database_url)
    for table in OWN_TABLES:
        assert f"ALTER TABLE {table} OWNER TO {chatter};" in rejected(url)
    execute(database_url, f"GRANT SELECT ON chatterd_migrations TO {chatter}")
    statements = rejected(url)
    assert statements.split("; ")[:-2] == [
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {chatter}"
        for table in OWN_TABLES
        if table != "chatterd_migrations"
    ]
    assert sorted(statements.rstrip(";").split("; ")[-2:]) == [
        f"GRANT USAGE ON SEQUENCE {sequence} TO {chatter}" for sequence in ("chatts_seq_seq", "numbers")
    ]
    execute(database_url, statements)
    upgrade(url)
    CourseServer(url).record("user", "x", "a")


def test_a_column_added_by_the_owner_needs_the_owner(database_url: str, roles: Roles) -> None:
    chatter, url = roles.create("chatter")
    execute(database_url, TABLE)
    upgrade(database_url)
    execute(
        database_url, f"GRANT ALL ON {', '.join(OWN_TABLES)} TO {chatter}; GRANT ALL ON chatts_seq_seq TO {chatter}"
    )
    upgrade(url)
    execute(database_url, "ALTER TABLE chatts ADD toolcalls text")
    statements = rejected(url)
    assert f"ALTER TABLE chatts OWNER TO {chatter};" in statements
    execute(database_url, statements)
    upgrade(url)
    assert len(rows(database_url, "SELECT FROM pg_trigger WHERE tgname = 'chatts_equal_columns'")) == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):  # what it was not granted, it has not
        execute(url, "CREATE ROLE x")


def test_all_tables_of_the_migrations_are_checked(database_url: str) -> None:
    upgrade(database_url)
    tables = rows(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {row["tablename"] for row in tables} == {*OWN_TABLES}


def test_a_role_without_rights_on_the_newest_tables_is_told_to_get_them(database_url: str, roles: Roles) -> None:
    chatter, url = roles.create("chatter")
    upgrade(database_url)
    execute(
        database_url,
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {chatter}; REVOKE ALL ON context_summaries FROM {chatter};"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {chatter}",
    )
    with pytest.raises(StartupError, match=f"GRANT SELECT, INSERT, UPDATE, DELETE ON context_summaries TO {chatter};"):
        with_connection(url, check_privileges)
