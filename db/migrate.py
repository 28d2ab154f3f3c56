"""Migrations: applies the numbered files of ``db/migrations``, each once and in its own transaction."""

import logging
from pathlib import Path

import asyncpg

from db.tutorial_table import upgrade
from db.tutorial_table.alteration import limit_lock_waits, locked_table
from db.tutorial_table.catalog import find_table
from db.tutorial_table.equal_columns import keep_columns_equal
from db.tutorial_table.privileges import check_privileges, missing_privileges, share_sequence
from errors import StartupError

log = logging.getLogger("chatterd.db")

FOLDER = Path(__file__).parent / "migrations"

LOCK = 0x63686174746572
"""Key of an advisory lock ("chatter" in ASCII): processes migrate one after the other."""

REJECTED_ERRORS = (
    asyncpg.DataError,
    asyncpg.DependentObjectsStillExistError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.PLPGSQLError,
    asyncpg.SyntaxOrAccessError,
)
"""Errors that the objects in the database cause, and that do not pass."""


async def migrate(connection: asyncpg.Connection) -> None:
    """Apply the migrations that the database lacks, in their order. Unknown newer migrations are left unchanged.

    :raises StartupError: a privilege is missing, or something in the database prevents a migration, which was rolled
        back; the ones before it remain applied.
    :raises asyncpg.PostgresError: a migration failed for another reason.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
    try:
        await _migrate(connection)
        await check_privileges(connection)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError) as error:
        raise await missing_privileges(connection, error) from error
    except asyncpg.LockNotAvailableError as error:
        raise await locked_table(connection) from error
    except REJECTED_ERRORS as error:
        raise _rejected(error) from error
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)


async def _migrate(connection: asyncpg.Connection) -> None:
    applied: set[int] = set()
    if await connection.fetchval("SELECT to_regclass('chatterd_migrations')"):
        applied = {row["number"] for row in await connection.fetch("SELECT number FROM chatterd_migrations")}
    pending = [migration for migration in _migrations() if migration[0] not in applied]
    if applied:
        for migration in pending:
            await _apply(connection, *migration)
        await keep_columns_equal(connection)
    else:
        async with connection.transaction():
            await _apply_first(connection, pending)
    await share_sequence(connection)


async def _apply_first(connection: asyncpg.Connection, migrations: list[tuple[int, str, str]]) -> None:
    """Apply all migrations to a database without any: if one fails, a table of the tutorial is as it was."""
    await limit_lock_waits(connection)
    table = await find_table(connection)
    if table:
        upgrade.check_table(table)
        # New tables belong into the table's schema, which need not be the first of search_path.
        path = "set_config('search_path', $1 || ', ' || current_setting('search_path'), true)"
        await connection.execute(f"SELECT {path}", table.schema)
        await upgrade.set_aside(connection, table)
    if not await connection.fetchval("SELECT to_regclass('chatterd_migrations')"):
        await connection.execute(
            "CREATE TABLE chatterd_migrations"
            " (number int PRIMARY KEY, name text NOT NULL, applied timestamptz NOT NULL DEFAULT now())"
        )
    first, *others = migrations
    await _apply(connection, *first)
    if table:
        await upgrade.put_back(connection, table)
    for migration in others:
        await _apply(connection, *migration)
    await keep_columns_equal(connection)


def _migrations() -> list[tuple[int, str, str]]:
    """Return number, name and statements of each file, in order."""
    files = sorted(FOLDER.glob("*.sql"))
    return [(int(file.name.split("_")[0]), file.stem, file.read_text(encoding="utf-8")) for file in files]


async def _apply(connection: asyncpg.Connection, number: int, name: str, statements: str) -> None:
    log.info("Applying database migration %s", name)
    async with connection.transaction():
        await connection.execute(statements)
        await connection.execute("INSERT INTO chatterd_migrations (number, name) VALUES ($1, $2)", number, name)


def _rejected(error: asyncpg.PostgresError) -> StartupError:
    """Return the error for a start that something in the database prevents, with what to do."""
    reason = f"the upgrade of the database failed and was rolled back: {error.message}"
    if isinstance(error, asyncpg.DuplicateTableError | asyncpg.DuplicateObjectError):
        return StartupError(f"{reason}. Rename it, or give chatterd a database of its own.")
    if isinstance(error, asyncpg.FeatureNotSupportedError | asyncpg.DependentObjectsStillExistError) and error.detail:
        return StartupError(f"{reason} ({error.detail}). Drop what depends on it, start chatterd, and create it again.")
    return StartupError(f"{reason}. Change that, or give chatterd a database of its own.")
