"""Upgrades a table ``chatts`` that was there before chatterd to what migration 0001 creates, and keeps every row."""

import logging

import asyncpg

from db.tutorial_table.alteration import without_triggers
from db.tutorial_table.catalog import Column, Table
from db.tutorial_table.column_types import COMPARED_AS, TYPE_CHANGES, alter_type
from db.tutorial_table.equal_columns import Pair, find_pairs
from errors import StartupError

log = logging.getLogger("chatterd.db")

ASIDE = "chatts_of_the_tutorial"
"""Name of the table while migration 0001 creates an empty ``chatts``."""

RESERVED = ("tenant", "extra", "seq")
"""The columns that chatterd adds."""

KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "p": "a partitioned table",
    "S": "a sequence",
    "c": "a composite type",
    "i": "an index",
}
"""Relations that are not ordinary tables (``pg_class.relkind``)."""


def check_table(table: Table) -> None:
    """Check that chatterd can work with a table.

    :raises StartupError: it is not an ordinary table, or has parts that chatterd's statements cannot be used with.
    """
    rename = f"Rename it (ALTER TABLE {table.identifier} RENAME TO old_chatts;), or use another database"
    if table.kind != "r":
        kind = KINDS.get(table.kind, "no table")
        raise StartupError(f"{table.identifier} is {kind}, and chatterd needs an ordinary table. {rename}.")
    if table.inherits:
        raise StartupError(
            f"the table {table.identifier} inherits from another table or is inherited by one, and chatterd needs an "
            f"ordinary table. {rename}."
        )
    if table.rules:
        rules = " ".join(f"DROP RULE {rule} ON {table.identifier};" for rule in table.rules)
        raise StartupError(
            f"the table {table.identifier} has rules, which PostgreSQL does not support for statements such as "
            f"chatterd's. Drop them, or replace them by triggers: {rules}"
        )
    for name in RESERVED:
        if column := table.columns.get(name):
            raise StartupError(
                f"the table {table.identifier} has a column {name}, a name that chatterd needs for its own. Rename it: "
                f"ALTER TABLE {table.identifier} RENAME COLUMN {column.quoted} TO {column.renamed};"
            )
    for column in table.columns.values():
        if column.name in TYPE_CHANGES and column.computed:
            raise StartupError(
                f"the column {column.quoted} of the table {table.identifier} is generated, and chatterd has to write "
                f"to it. Rename it: ALTER TABLE {table.identifier} RENAME COLUMN {column.quoted} TO {column.renamed};"
            )
        if _lacks_value(column) and column.in_key:
            raise StartupError(
                f"the column {column.quoted} belongs to the primary key of the table {table.identifier} and has no "
                f"default, and chatterd has no value for it. Give it a default: ALTER TABLE {table.identifier} ALTER "
                f"COLUMN {column.quoted} SET DEFAULT ...;"
            )


async def set_aside(connection: asyncpg.Connection, table: Table) -> None:
    """Rename the table, so that migration 0001 creates an empty one: 0001 itself cannot upgrade all forms."""
    log.info("Upgrading the table %s, which was there before chatterd", table.identifier)
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # else ALTER TABLE fails after an UPDATE
    await connection.execute(f"ALTER TABLE {table.identifier} RENAME TO {ASIDE}")


async def put_back(connection: asyncpg.Connection, table: Table) -> None:
    """Replace the empty ``chatts`` of migration 0001 by the table set aside, with the same columns and indexes.

    Rows keep the order of ``time``; rows of the same time keep their physical order.

    :raises StartupError: a column has a type that cannot be changed.
    :raises asyncpg.PostgresError: a value cannot be converted, or something depends on a column.
    """
    name = table.identifier
    await connection.execute(f"DROP TABLE {name}; ALTER TABLE {table.schema}.{ASIDE} RENAME TO chatts")
    pairs = await find_pairs(connection, table)
    async with without_triggers(connection, table):
        try:
            await connection.execute(f"ALTER TABLE {name} {', '.join(_column_clauses(table, pairs))}")
        except asyncpg.DataError as error:
            raise StartupError(
                f"a value in the table {name} cannot be converted: {error.message}. Correct it, or rename its column, "
                f"and chatterd adds its own. Of a UUID: ALTER TABLE {name} RENAME COLUMN id TO old_id;"
            ) from error
        await connection.execute(_number_rows(table, pairs))
        await connection.execute(_CONSTRAINTS.format(table=name, schema=table.schema))


def _column_clauses(table: Table, pairs: list[Pair]) -> list[str]:
    """Return the clauses of ALTER TABLE that give the table the columns of migration 0001, in their types."""
    clauses = []
    for name, (column_type, change) in TYPE_CHANGES.items():
        existing = table.columns.get(name)
        if existing is None:
            clauses.append(f"ADD COLUMN {name} {column_type}")
        elif new_type := change(existing):
            clauses += alter_type(existing, new_type)
    clauses += [
        f"ALTER COLUMN {column.quoted} DROP NOT NULL"
        for column in table.columns.values()
        if _lacks_value(column) and column.name not in {other.name for _, other in pairs}
    ]
    return [*clauses, "ADD COLUMN tenant text NOT NULL DEFAULT ''", "ADD COLUMN extra jsonb", "ADD COLUMN seq bigint"]


def _lacks_value(column: Column) -> bool:
    """Return whether chatterd's statements give the column no value, although it must have one."""
    return column.not_null and column.default is None and not column.computed and column.name not in TYPE_CHANGES


def _number_rows(table: Table, pairs: list[Pair]) -> str:
    """Return the statement that numbers the rows and replaces the nulls of columns that chatterd needs."""
    defaults = {"username": "''", "message": "''", "id": "gen_random_uuid()", "time": "now()", "appid": "NULL"}
    values = []
    for name, default in defaults.items():
        columns = [
            f"target.{name}",
            *(f"target.{other.quoted}::{COMPARED_AS[name]}" for own, other in pairs if own == name),
        ]
        values.append(f"{name} = coalesce({', '.join(columns)}, {default})")
    return f"""
        UPDATE {table.identifier} AS target SET seq = ordered.n, {", ".join(values)}
        FROM (
            SELECT ctid AS place, row_number() OVER (ORDER BY time, ctid) AS n FROM {table.identifier}
        ) AS ordered
        WHERE target.ctid = ordered.place
    """


# What migration 0001 makes of its own table. clock_timestamp(): see there.
_CONSTRAINTS = """
    CREATE SEQUENCE {schema}.chatts_seq_seq OWNED BY {table}.seq;
    SELECT setval('{schema}.chatts_seq_seq', coalesce(max(seq), 0) + 1, false) FROM {table};
    ALTER TABLE {table}
        ALTER COLUMN username SET NOT NULL,
        ALTER COLUMN message SET NOT NULL,
        ALTER COLUMN id SET DEFAULT gen_random_uuid(),
        ALTER COLUMN id SET NOT NULL,
        ALTER COLUMN time SET DEFAULT clock_timestamp(),
        ALTER COLUMN time SET NOT NULL,
        ALTER COLUMN seq SET DEFAULT nextval('{schema}.chatts_seq_seq'),
        ALTER COLUMN seq SET NOT NULL;
    CREATE UNIQUE INDEX chatts_conversation ON {table} (tenant, appid, seq);
    CREATE INDEX chatts_system ON {table} (tenant, appid, seq) WHERE username = 'system';
"""
