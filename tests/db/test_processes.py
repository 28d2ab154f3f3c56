"""The table ``processes``: the list of processes with their replies, and the orphans."""

from uuid import uuid4

import asyncpg

from db import processes
from db.migrate import migrate
from tests.database import with_connection


def test_processes_are_listed_with_their_replies_and_orphans_last(database_url: str) -> None:
    async def act(connection: asyncpg.Connection) -> list[processes.Process]:
        await migrate(connection)
        assert await processes.list_processes(connection) == []
        for owner, age in ((2, 10), (1, 60)):
            await connection.execute("INSERT INTO processes VALUES ($1, now() - $2 * interval '1 second')", owner, age)
        for owner_id, status in (
            (1, "streaming"),
            (1, "streaming"),
            (1, "done"),
            (None, "streaming"),
            (9, "streaming"),
        ):
            await connection.execute(
                "INSERT INTO replies (id, tenant, appid, model, request, owner, status)"
                " VALUES ($1, '', $2, 'fake', '{}', $3, $4)",
                uuid4(),
                str(uuid4()),
                owner_id,
                status,
            )
        return await processes.list_processes(connection)

    listed = with_connection(database_url, act)
    assert [(process.owner, process.replies) for process in listed] == [(1, 2), (2, 0), (None, 2)]
    assert [process.age and round(process.age, -1) for process in listed] == [60, 10, None]
