"""Keeps columns equal that mean the same: those of other editions of the tutorial, and chatterd's own.

The Winter 2026 edition calls the role ``name``, some servers quote ``"appID"``, and the tutorial on tools has a column
``toolcalls`` for what chatterd keeps in ``extra``. A trigger, on tables that have such columns only, lets the servers
of either edition and chatterd work on one table.
"""

import logging

import asyncpg

from db.tutorial_table.alteration import limit_lock_waits, without_triggers
from db.tutorial_table.catalog import Column, Table, find_table
from db.tutorial_table.column_types import COMPARED_AS, TYPE_CHANGES, alter_type

log = logging.getLogger("chatterd.db")

FUNCTION = "chatts_equal_columns"
"""Name of the trigger and of its function."""

OTHER_NAMES = {"name": "username"}
"""Columns with other names than in the tutorial. Beside them, names that differ in case, such as ``"appID"``."""

TOOL_CALLS = "toolcalls"
"""The column in which the tutorial on tools keeps a JSON array of tool calls, empty if there are none."""

Pair = tuple[str, Column]
"""The name of one of chatterd's columns, and another column that means the same."""


async def keep_columns_equal(connection: asyncpg.Connection) -> None:
    """Install, renew or remove the trigger, as the table's columns require; does nothing if it is as required.

    Columns may have been added since the last start: the tutorial on tools does so.

    :raises asyncpg.PostgresError: something depends on a column whose type must be changed.
    """
    table = await find_table(connection)
    if table is None:
        return
    installed = await connection.fetchval(
        """
        SELECT prosrc FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE tgrelid = $1 AND tgname = $2 AND tgenabled <> 'D'
        """,
        table.oid,
        FUNCTION,
    )
    pairs = await find_pairs(connection, table, known=installed or "")
    calls = _tool_calls_column(table)
    body = _function_body(pairs, calls) if pairs or calls else None
    if body == installed:
        return
    async with connection.transaction():
        await limit_lock_waits(connection)
        await _install(connection, table, pairs, calls, body)


async def _install(
    connection: asyncpg.Connection, table: Table, pairs: list[Pair], calls: Column | None, body: str | None
) -> None:
    """Replace the trigger and apply it to existing rows; without a ``body``, remove it."""
    async with without_triggers(connection, table, but=FUNCTION):
        await connection.execute(f"DROP TRIGGER IF EXISTS {FUNCTION} ON {table.identifier}")
        if body is None:
            await connection.execute(f"DROP FUNCTION {table.schema}.{FUNCTION}()")
            return
        others = [column for _, column in pairs] + ([calls] if calls else [])
        log.info("Keeping columns of other servers equal: %s", ", ".join(column.quoted for column in others))
        if clauses := _column_clauses(table, pairs, calls):
            await connection.execute(f"ALTER TABLE {table.identifier} {', '.join(clauses)}")
        watched = [own for own, _ in pairs] + [column.quoted for column in others] + (["extra"] if calls else [])
        await connection.execute(
            f"""
            CREATE OR REPLACE FUNCTION {table.schema}.{FUNCTION}() RETURNS trigger LANGUAGE plpgsql
            AS {_dollar_quoted(body)};
            CREATE TRIGGER {FUNCTION} BEFORE INSERT OR UPDATE OF {", ".join(dict.fromkeys(watched))}
            ON {table.identifier} FOR EACH ROW EXECUTE FUNCTION {table.schema}.{FUNCTION}();
            UPDATE {table.identifier} SET {watched[0]} = {watched[0]} WHERE {_unequal(pairs, calls)};
            """
        )


async def find_pairs(connection: asyncpg.Connection, table: Table, known: str = "") -> list[Pair]:
    """Return the columns that mean the same as one of chatterd's.

    A column that holds other values than chatterd's in some row has a meaning of its own.

    :param known: body of the trigger's function; columns in it are not compared again.
    """
    found: list[Pair] = []
    for column in table.columns.values():
        lower = column.name.lower()
        own = OTHER_NAMES.get(lower, lower)
        if own not in TYPE_CHANGES or own == column.name or column.computed:
            continue
        comparable = column.text if COMPARED_AS[own] == "text" else column.base in (COMPARED_AS[own], "timestamp")
        if comparable and (_new(column) in known or not await _differ(connection, table, own, column)):
            found.append((own, column))
    return found


async def _differ(connection: asyncpg.Connection, table: Table, own: str, column: Column) -> bool:
    if own not in table.columns:
        return False
    kind = COMPARED_AS[own]
    return bool(
        await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {table.identifier} WHERE {own}::{kind} <> {column.quoted}::{kind})"
        )
    )


def _tool_calls_column(table: Table) -> Column | None:
    for column in table.columns.values():
        if (
            column.name.lower() == TOOL_CALLS
            and not column.computed
            and (column.text or column.base in ("json", "jsonb"))
        ):
            return column
    return None


def _column_clauses(table: Table, pairs: list[Pair], calls: Column | None) -> list[str]:
    """Return the clauses of ALTER TABLE that let the other columns hold what chatterd writes.

    A default of such a column would hide which of both columns a statement gave.
    """
    clauses = []
    for own, column in pairs:
        if change := TYPE_CHANGES[own][1](column):
            clauses += alter_type(column, change)
        if own == "appid" and column.not_null and not column.in_key:  # messages without an appID have none
            clauses.append(f"ALTER COLUMN {column.quoted} DROP NOT NULL")
        if column.default is not None:
            clauses.append(f"ALTER COLUMN {column.quoted} DROP DEFAULT")
            if table.columns[own].default is None and own != "username":  # a role that is null must be rejected
                clauses.append(f"ALTER COLUMN {own} SET DEFAULT {column.default}")
    if calls and calls.text and not calls.holds(None):
        clauses += alter_type(calls, "text")
    if calls and calls.not_null:
        clauses.append(f"ALTER COLUMN {calls.quoted} DROP NOT NULL")
    return clauses


def _unequal(pairs: list[Pair], calls: Column | None) -> str:
    """Return the condition on existing rows for which the trigger has work to do."""
    conditions = [
        f"{own}::{COMPARED_AS[own]} IS DISTINCT FROM {column.quoted}::{COMPARED_AS[own]}" for own, column in pairs
    ]
    if calls:
        conditions.append(f"(nullif({calls.quoted}::text, '') IS NOT NULL) <> (extra ->> 'tool_calls' IS NOT NULL)")
    return " OR ".join(conditions)


def _new(column: Column) -> str:
    return f"NEW.{column.quoted}"


def _function_body(pairs: list[Pair], calls: Column | None) -> str:
    """Return the body of the trigger's function, the same for the same columns."""
    parts = [_PAIR.format(own=own, other=column.quoted, type=COMPARED_AS[own]) for own, column in pairs]
    if calls:
        parts.append(_CALLS.format(calls=calls.quoted))
    return f"\nDECLARE\n    calls json;\nBEGIN{''.join(parts)}\n    RETURN NEW;\nEND\n"


def _dollar_quoted(body: str) -> str:
    """Return a string constant; a column's name may contain anything (PostgreSQL manual, section 4.1.2.4)."""
    tag = "$body$"
    while tag in body:
        tag = tag.replace("$", "$x", 1)
    return f"{tag}{body}{tag}"


# The other column has no default: where it has a value in an INSERT, the statement gave it.
_PAIR = """
    IF TG_OP = 'INSERT' THEN
        NEW.{own} := coalesce(NEW.{other}::{type}, NEW.{own});
    ELSIF NEW.{own} IS NOT DISTINCT FROM OLD.{own} THEN
        IF NEW.{other} IS DISTINCT FROM OLD.{other} THEN
            NEW.{own} := NEW.{other}::{type};
        ELSE
            NEW.{own} := coalesce(NEW.{own}, NEW.{other}::{type});
        END IF;
    END IF;
    NEW.{other} := NEW.{own};"""

# Only calls as Ollama accepts them (api/types.go, ToolCall): one message with others would make it reject every later
# prompt of the conversation. jsonb rejects what chatterd's clients could not read.
_CALLS = """
    IF coalesce(NEW.extra ->> 'tool_calls', '[]') <> '[]' THEN
        NEW.{calls} := NEW.extra -> 'tool_calls';
    ELSIF NEW.{calls} IS NOT NULL THEN
        BEGIN
            calls := NEW.{calls};
            IF jsonb_typeof(calls::jsonb) = 'array' AND calls::jsonb <> '[]' AND NOT EXISTS (
                SELECT FROM jsonb_array_elements(calls::jsonb) AS call
                WHERE jsonb_typeof(call #> '{{function,name}}') IS DISTINCT FROM 'string'
                OR coalesce(jsonb_typeof(call #> '{{function,arguments}}'), 'object') <> 'object'
            ) THEN
                NEW.extra := (
                    SELECT json_object_agg(key, value ORDER BY n) FROM (
                        SELECT key, value, n FROM json_each(NEW.extra) WITH ORDINALITY AS field (key, value, n)
                        WHERE key <> 'tool_calls'
                        UNION ALL SELECT 'tool_calls', calls, 1000000
                    ) AS fields
                );
                NEW.extra_bytes := NULL;
            END IF;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            NULL; -- the column holds something else than JSON
        END;
    END IF;"""
