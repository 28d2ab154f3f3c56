"""Statements that fail in a real PostgreSQL with a chosen SQLSTATE: triggers that raise it, and locks held."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import asyncpg

from tests.database import PATIENCE, eventually, execute, rows, with_connection

ALWAYS = 1_000_000_000

_FUNCTION = """
    CREATE SEQUENCE IF NOT EXISTS {name}_executions;
    CREATE OR REPLACE FUNCTION {name}_fail() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        -- a sequence goes on although the transaction is rolled back
        IF nextval('{name}_executions') <= {times} THEN
            RAISE EXCEPTION 'a fault was injected' USING ERRCODE = '{state}';
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {name}_fail();
"""


class Fault:
    """A trigger under which statements fail.

    :param state: SQLSTATE with which they fail.
    :param event: what fails: ``INSERT``, ``UPDATE`` or ``DELETE``.
    :param condition: SQL expression on the row; the trigger fires for rows that meet it.
    :param times: how often statements fail before they succeed; by default until :meth:`remove`.
    """

    def __init__(
        self, url: str, table: str, state: str, event: str = "INSERT", condition: str = "true", times: int = ALWAYS
    ) -> None:
        self._url, self._table = url, table
        self._name = f"fault_{state.lower()}_{table}_{event.lower()}"
        execute(
            url,
            _FUNCTION.format(name=self._name, times=times, state=state, event=event, table=table, condition=condition),
        )

    @property
    def executions(self) -> int:
        """How often the trigger has fired."""
        [row] = rows(self._url, f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {self._name}_executions")
        return int(row[0])

    def wait(self, count: int) -> None:
        """Wait until it has fired so often."""
        eventually(f"{count} attempts", lambda: self.executions >= count)

    def remove(self) -> None:
        """Let statements succeed."""
        execute(self._url, f"DROP TRIGGER {self._name} ON {self._table}")


@contextmanager
def held(url: str, statement: str) -> Iterator[None]:
    """Hold the locks of a statement within the ``with`` block."""
    with_lock, release = threading.Event(), threading.Event()

    async def hold(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute(statement)
            with_lock.set()
            await asyncio.to_thread(release.wait)

    with ThreadPoolExecutor(1) as executor:
        holding = executor.submit(with_connection, url, hold)
        try:
            assert with_lock.wait(PATIENCE)
            yield
        finally:
            release.set()
            holding.result()
