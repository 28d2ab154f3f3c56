"""The campaign of faults of the database: statements that fail, locks, cancelled statements, terminated sessions."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import asyncpg

from tests.soak.results import Result
from tests.soak.site import Site
from tests.soak.traffic import RHYTHM, Plan, inject
from tests.soak.upstream import InProcess

VIEWERS = 30

LASTS = (0.1, 1.5)
"""The minimum and maximum duration of a fault, in seconds."""

STATES = (
    "08006", "0A000", "23502", "23505", "25006", "26000", "40001", "40003", "40P01", "42501", "42P01", "53100", "53200",
    "53300", "55000", "55006", "55P03", "57014", "57P01", "57P03", "58030", "58P01", "P0001", "XX000", "XX001", "XX002",
)  # fmt: skip
"""SQLSTATEs that are no refusal of a text (see ``db/connection/sqlstates.py``)."""

TABLES = ("chatts", "replies", "reply_lines")

LOCKS = ("SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE")
"""Modes that block writing, or reading too."""

SHARES = (0.2, 1.0)
"""The minimum and maximum share of rows with which a statement fails."""

SET_UP = """
    ALTER SYSTEM SET lock_timeout = '250ms';
    SELECT pg_reload_conf();
    CREATE TABLE soak_faults (relation name, state text, share float8);
    CREATE SEQUENCE soak_faults_raised;
    CREATE FUNCTION soak_fail() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE fault soak_faults;
    BEGIN
        SELECT * INTO fault FROM soak_faults WHERE relation = TG_TABLE_NAME AND random() < share
        ORDER BY random() LIMIT 1;
        IF FOUND THEN
            PERFORM nextval('soak_faults_raised');
            RAISE EXCEPTION 'a fault was injected' USING ERRCODE = fault.state;
        END IF;
        RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    END $$
"""

TRIGGER = (
    "CREATE TRIGGER soak_fail BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION soak_fail()"
)

OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename IS NOT NULL"


class Faults:
    """Injects faults of random kinds over one connection.

    :ivar injected: how many there were of each kind.
    """

    def __init__(self, connection: asyncpg.Connection, chance: random.Random) -> None:
        self.injected: Counter[str] = Counter()
        self._connection = connection
        self._chance = chance

    async def inject(self, _: int) -> float:
        """Inject a fault, wait until it is over, and return when it began."""
        began = time.monotonic()
        kind: Callable[[], Awaitable[object]] = self._chance.choice(
            [self._fail, self._fail, self._fail, self._lock, self._cancel, self._terminate]
        )
        self.injected[kind.__name__.strip("_")] += 1
        await kind()
        return began

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(*LASTS))

    async def _fail(self) -> None:
        """Let statements fail that write rows of some tables, each with a code of its own."""
        for table in self._chance.sample(TABLES, self._chance.randint(1, len(TABLES))):
            state, share = self._chance.choice(STATES), self._chance.uniform(*SHARES)
            await self._connection.execute("INSERT INTO soak_faults VALUES ($1, $2, $3)", table, state, share)
        await self._pause()
        await self._connection.execute("DELETE FROM soak_faults")

    async def _lock(self) -> None:
        table, mode = self._chance.choice(TABLES), self._chance.choice(LOCKS)
        async with self._connection.transaction():
            await self._connection.execute("SET LOCAL lock_timeout = 0")
            await self._connection.execute(f"LOCK TABLE {table} IN {mode} MODE")
            await self._pause()

    async def _cancel(self) -> None:
        """Cancel running statements again and again."""
        until = time.monotonic() + self._chance.uniform(*LASTS)
        while time.monotonic() < until:
            await self._connection.execute(f"SELECT pg_cancel_backend(pid) {OTHERS} AND state = 'active'")
            await asyncio.sleep(0.005)

    async def _terminate(self) -> None:
        """Terminate a third of the sessions, among them leases and journals."""
        await self._connection.execute(f"SELECT pg_terminate_backend(pid) {OTHERS} AND random() < 0.33")
        await self._pause()


async def fail_statements(count: int, seed: int) -> Result:
    """Inject faults of the database that pass, while replies begin, stream and end."""
    chance = random.Random(seed)
    with Site("haproxy", InProcess(RHYTHM)) as site:
        connection = await asyncpg.connect(site.database_url)
        try:
            for statement in (*SET_UP.split(";\n", 2), *(TRIGGER.format(table=table) for table in TABLES)):
                await connection.execute(statement)
            faults = Faults(connection, chance)
            title = (
                f"{count} faults of the database (errors, locks, cancelled statements, terminated sessions), {VIEWERS}"
            )
            plan = Plan(f"{title} replies streaming", VIEWERS, count, chance, effect="its owner lost its lease")
            result, seen = await inject(plan, site, faults.inject)
            raised = await connection.fetchval("SELECT last_value FROM soak_faults_raised")
        finally:
            await connection.close()
    result.rows["faults by kind"] = ", ".join(f"{kind} {times}" for kind, times in sorted(faults.injected.items()))
    result.rows["statements that failed with an injected SQLSTATE"] = f"{raised:,}"
    if any(event.error is not None for one in seen for event in one.events):
        result.wrong.append("viewers were shown errors")
    return result
