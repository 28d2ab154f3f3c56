"""Which processes live, as PostgreSQL knows it, and the doorbell between them (the table ``processes``, NOTIFY)."""

from dataclasses import dataclass

import asyncpg

CHANNEL = "chatterd"

RECOVERY_GRACE = 3
"""Seconds after PostgreSQL's own start in which nobody is declared dead: all have lost their sessions and come back."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process and its work.

    :param owner: its id; None for the replies that no living process generates at the moment.
    :param age: seconds since it was announced first; None likewise.
    :param replies: how many it generates.
    """

    owner: int | None
    age: float | None
    replies: int


async def register(connection: asyncpg.Connection, owner: int) -> None:
    """Say that a process lives, for as long as ``connection``'s session does, and listen to the others.

    PostgreSQL frees the advisory lock when the session ends, however the process died.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", owner)
    await connection.execute("INSERT INTO processes (owner) VALUES ($1) ON CONFLICT DO NOTHING", owner)


async def register_again(connection: asyncpg.Connection, owner: int) -> bool:
    """Say so in a new session after the old one was lost.

    PostgreSQL may not have noticed yet that the old one is; it is ended, or the lock would not be free.

    :returns: False if the process was declared dead in between: its replies are or will be somebody else's.
    """
    await connection.execute(
        """
        SELECT pg_terminate_backend(pid) FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        -- a bigint key's two halves
        AND classid::bigint = $1::bigint >> 32 AND objid::bigint = $1::bigint & 4294967295 AND objsubid = 1
        """,
        owner,
    )
    await connection.execute("SELECT pg_advisory_lock($1)", owner)
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM processes WHERE owner = $1)", owner))


async def unregister(connection: asyncpg.Connection, owner: int) -> None:
    """Take back that a process lives, at its orderly end."""
    await connection.execute("DELETE FROM processes WHERE owner = $1", owner)


async def delete_dead(connection: asyncpg.Connection, but: int) -> list[int]:
    """Declare dead every process whose advisory lock is free, ``but`` that of the one that looks. Their replies are
    orphans from then on.

    The deletion waits for a round of lines that is being written under the row (see :func:`db.lines.append`), so
    whoever sees the row gone sees all lines that its process ever wrote.

    :returns: the dead.
    """
    rows = await connection.fetch(
        """
        DELETE FROM processes
        WHERE now() - pg_postmaster_start_time() > make_interval(secs => $1)
        AND CASE WHEN owner = $2 THEN false ELSE pg_try_advisory_xact_lock(owner) END
        RETURNING owner
        """,
        RECOVERY_GRACE,
        but,
    )
    return [row["owner"] for row in rows]


async def list_processes(connection: asyncpg.Connection) -> list[Process]:
    """List the processes that were not declared dead, the oldest first, and last, if there are any, the orphans."""
    rows = await connection.fetch(
        """
        SELECT processes.owner, extract(epoch FROM now() - processes.started)::float8 AS age,
               coalesce(sum(streaming.count), 0)::bigint AS replies
        FROM processes FULL JOIN (
            SELECT owner, count(*) AS count FROM replies WHERE status = 'streaming' GROUP BY owner
        ) AS streaming ON streaming.owner = processes.owner
        GROUP BY processes.owner
        ORDER BY processes.started, processes.owner
        """
    )
    return [Process(row["owner"], row["age"], row["replies"]) for row in rows]


async def notify(connection: asyncpg.Connection, notice: str) -> None:
    """Send a notice to every process that listens, this one too.

    :param notice: a word and a reply's id, never text (NOTIFY carries at most 8 kB).
    """
    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, notice)
