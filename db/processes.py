"""The table ``processes``: the leases of all processes, and notifications between processes.

What fences a process whose lease is lost (docs/architecture.md has a diagram of each failure):

* The **advisory lock** with the key ``owner``, held in a session of its own, tells whether a process is alive.
  PostgreSQL releases it when the session ends, however the process died. It fences nothing by itself: a process that
  lost only this session can still write on its other connections.
* The **row in processes** is the lease. The process inserts it after taking the lock, so a row whose lock is free
  belongs to a dead process, and any other process may delete it (:func:`delete_dead`). The deletion holds the lock
  until it commits: a process that registers again in the meantime waits for it, and then finds no row.
* **FOR KEY SHARE** fences the reply log. :func:`db.reply_lines.append` locks its own process's row in this mode in the
  statement that inserts the lines. The mode conflicts with DELETE and not with itself (PostgreSQL manual, "Explicit
  Locking"). A deletion therefore waits for the batch in progress. A later batch, or one that waited for the deletion,
  inserts nothing, however old its snapshot: at READ COMMITTED a row deleted meanwhile is skipped. Once the row is
  deleted, the log contains all lines that this process will ever append to it.
* **replies.owner** fences adoption and the end of a reply, not the lease. Both are an UPDATE that requires the expected
  owner and ``finished IS NULL`` under the lock of the row in ``replies``, so exactly one of them succeeds.
"""

from dataclasses import dataclass

import asyncpg

CHANNEL = "chatterd"
"""The channel of all notifications."""

RECOVERY_GRACE = 3
"""Seconds after PostgreSQL's start during which no process is declared dead: all have lost their sessions."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process and its work.

    :ivar owner: id of the process; None for the orphans, which no living process generates.
    :ivar age: seconds since it registered first; None for the orphans.
    :ivar replies: number of replies it generates.
    """

    owner: int | None
    age: float | None
    replies: int


async def register(connection: asyncpg.Connection, owner: int) -> None:
    """Take the lease of a process, for as long as the session of ``connection`` exists."""
    await connection.execute("SELECT pg_advisory_lock($1)", owner)
    await connection.execute("INSERT INTO processes (owner) VALUES ($1) ON CONFLICT DO NOTHING", owner)


async def register_again(connection: asyncpg.Connection, owner: int) -> bool:
    """Move the lease to a new session after the previous one was lost.

    PostgreSQL may not have detected the loss yet; a previous session that still holds the lock is terminated.

    :returns: False if the process was declared dead in the meantime: other processes adopt its replies.
    """
    await connection.execute(
        """
        SELECT pg_terminate_backend(pid) FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        -- pg_locks shows a bigint key as two halves
        AND classid::bigint = $1::bigint >> 32 AND objid::bigint = $1::bigint & 4294967295 AND objsubid = 1
        """,
        owner,
    )
    await connection.execute("SELECT pg_advisory_lock($1)", owner)
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM processes WHERE owner = $1)", owner))


async def unregister(connection: asyncpg.Connection, owner: int) -> None:
    """Give up the lease of a process that stops."""
    await connection.execute("DELETE FROM processes WHERE owner = $1", owner)


async def delete_dead(connection: asyncpg.Connection, own: int) -> list[int]:
    """Declare dead, that is, delete, all processes whose advisory lock is free; their replies become orphans.

    The deletion waits for batches of lines in progress (see above).

    :param own: id of the calling process, which is skipped.
    :returns: the ids of the dead processes.
    """
    rows = await connection.fetch(
        """
        DELETE FROM processes
        WHERE now() - pg_postmaster_start_time() > make_interval(secs => $1)
        AND CASE WHEN owner = $2 THEN false ELSE pg_try_advisory_xact_lock(owner) END
        RETURNING owner
        """,
        RECOVERY_GRACE,
        own,
    )
    return [row["owner"] for row in rows]


async def list_processes(connection: asyncpg.Connection) -> list[Process]:
    """List all registered processes, the oldest first, and last, if there are any, the orphans."""
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


async def notify(connection: asyncpg.Connection, payload: str) -> None:
    """Send a notification to all processes, including the calling one.

    :param payload: a kind and the id of a reply (see :mod:`relay.cluster.notifications`); less than 8,000 bytes.
    """
    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)


async def ask_others(connection: asyncpg.Connection, own: int, payload: str) -> bool:
    """Send a notification if other processes are registered.

    :param own: id of the calling process.
    :returns: whether there are others, which may answer.
    """
    others = await connection.fetchval(
        "SELECT pg_notify($2, $3) IS NOT NULL FROM processes WHERE owner <> $1 LIMIT 1", own, CHANNEL, payload
    )
    return others is not None
