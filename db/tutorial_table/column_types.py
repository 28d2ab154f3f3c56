"""Which types chatterd's columns of ``chatts`` must have, and how a column of another type is changed."""

from collections.abc import Callable

from db.tutorial_table.catalog import Column
from errors import StartupError


def role_type(column: Column) -> str | None:
    """Return the change of ``username``: strings of 255 characters, as in the tutorial."""
    return None if column.holds(255) else _string_type(column, "varchar(255)")


def message_type(column: Column) -> str | None:
    """Return the change of ``message``: strings of any length."""
    return None if column.holds(None) else _string_type(column, "text")


def appid_type(column: Column) -> str | None:
    """Return the change of ``appid``: strings of 155 characters, the longest appID."""
    return None if column.holds(155) else _string_type(column, "varchar(155)")


def id_type(column: Column) -> str | None:
    """Return the change of ``id``: uuid.

    :raises StartupError: it is neither a UUID nor a string.
    """
    if column.base == "uuid":
        return None
    if not column.text:
        raise _other_type(column, "uuid")
    return f"uuid USING nullif(trim({column.quoted}), '')::uuid"


def time_type(column: Column) -> str | None:
    """Return the change of ``time``: timestamptz with microseconds. Times without a zone are the session's.

    :raises StartupError: it is neither a time nor a string.
    """
    if column.base == "timestamptz" and column.modifier < 0:
        return None
    if column.base in ("timestamptz", "timestamp", "date"):
        return "timestamptz"
    if not column.text:
        raise _other_type(column, "timestamptz")
    return f"timestamptz USING nullif(trim({column.quoted}), '')::timestamptz"


TYPE_CHANGES: dict[str, tuple[str, Callable[[Column], str | None]]] = {
    "username": ("varchar(255)", role_type),
    "message": ("text", message_type),
    "id": ("uuid", id_type),
    "time": ("timestamptz", time_type),
    "appid": ("varchar(155)", appid_type),
}
"""The tutorial's columns: the type of one that is missing, and the change of one that exists: what follows ``TYPE`` in
ALTER TABLE, or None. A longer varchar, and varchar as text, need no rewrite of the table (PostgreSQL manual, ALTER
TABLE, notes)."""


COMPARED_AS = {"username": "text", "message": "text", "id": "uuid", "time": "timestamptz", "appid": "text"}
"""The type as which values of a column and of another one that means the same are compared and copied."""


def alter_type(column: Column, change: str) -> list[str]:
    """Return the clauses of ALTER TABLE that change a column's type and keep its default."""
    name = column.quoted
    clauses = [f"ALTER COLUMN {name} TYPE {change}"]
    if column.default is not None and not column.computed:
        new_type = change.partition(" USING ")[0]
        clauses.insert(0, f"ALTER COLUMN {name} DROP DEFAULT")
        clauses.append(f"ALTER COLUMN {name} SET DEFAULT ({column.default})::{new_type}")
    return clauses


def _string_type(column: Column, string_type: str) -> str:
    return string_type if column.text else f"{string_type} USING {column.quoted}::text"


def _other_type(column: Column, needed: str) -> StartupError:
    return StartupError(
        f"the column {column.quoted} of the table chatts has the type {column.type}, and chatterd needs {needed}. "
        f"Rename it, and chatterd adds one: ALTER TABLE chatts RENAME COLUMN {column.quoted} TO {column.renamed};"
    )
