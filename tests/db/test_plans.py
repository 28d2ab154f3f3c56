"""With the generic plans of the program's sessions, no statement reads more rows as the tables grow."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from db import course, messages, ownership, replies, reply_begin, reply_end, reply_lines
from db.connection.opening import DIRECT_OPTIONS, SESSION_SETTINGS
from db.context import cuts, reduction, sent_messages, summaries
from db.context.cuts import Cut
from db.context.sent_messages import ContextBounds
from db.context.summaries import Unsummarised
from db.messages import Message
from db.migrate import migrate
from db.reply_begin import NewReply
from db.reply_end import FinishRequest, FinishResult
from tests.database import execute, with_connection

TABLES = ("chatts", "replies", "reply_lines")

STREAMING = 3_000
BATCH = 16
OWNER = 1

FINISHED = """
    INSERT INTO replies (id, tenant, appid, model, request, owner, status, finished, line_count, message_seq)
    SELECT gen_random_uuid(), '', 'app' || n % 2000, 'm', '{}', 1, 'done', now(), 4, n
    FROM generate_series(1, 20000) AS n;
    INSERT INTO reply_lines (reply, seq, line)
    SELECT id, n, repeat('x', 100) FROM replies, generate_series(0, 3) AS n WHERE status = 'done';
    INSERT INTO chatts (username, message, appid)
    SELECT CASE WHEN n % 2 = 0 THEN 'user' ELSE 'assistant' END, repeat('word ', 20), 'app' || n % 2000
    FROM generate_series(1, 40000) AS n;
    INSERT INTO processes (owner) SELECT n FROM generate_series(1, 3) AS n;
"""
RUNNING = f"""
    INSERT INTO replies (id, tenant, appid, model, request, owner)
    SELECT gen_random_uuid(), '', 'running' || n, 'm', '{{}}', 1 + n % 3 FROM generate_series(1, {STREAMING}) AS n;
    INSERT INTO reply_lines (reply, seq, line)
    SELECT id, n, repeat('x', 100) FROM replies, generate_series(0, 9) AS n WHERE status = 'streaming';
"""
ANALYZE = "ANALYZE chatts; ANALYZE replies; ANALYZE reply_lines; ANALYZE processes;"

# When the tables were last analyzed.
ANALYZED = {
    "while few replies streamed": FINISHED + ANALYZE + RUNNING,
    "while many replies streamed": FINISHED + RUNNING + ANALYZE,
    "while the tables were empty": ANALYZE + FINISHED + RUNNING,
    "never": FINISHED + RUNNING,
}


PLANNED_WHILE_EMPTY = "never, with plans made while the tables were empty"
"""As on the first start: sessions plan immediately and keep their plans; autovacuum analyzes only after a minute."""


class Scene:
    """A database with many rows.

    :param planned: a session that planned all statements before the rows were inserted.
    """

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop, planned: asyncpg.Connection | None) -> None:
        self.url = url
        self._loop = loop
        self._planned = planned

    def rows_read(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> int:
        """Execute ``work`` in a session like the program's, roll it back, and return the number of rows read."""
        return self._loop.run_until_complete(self._rows_read(work))

    async def _rows_read(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> int:
        connection = self._planned or await asyncpg.connect(self.url, server_settings=SESSION_SETTINGS)
        try:
            async with connection.transaction():
                before: int = await connection.fetchval(READ, TABLES)
                await work(connection)
                read: int = await connection.fetchval(READ, TABLES) - before
                raise asyncpg.exceptions.PostgresError  # rolls back
        except asyncpg.exceptions.PostgresError:
            return read
        finally:
            if connection is not self._planned:
                await connection.close()


@pytest.fixture(scope="module", params=[*ANALYZED, PLANNED_WHILE_EMPTY])
def scene(request: pytest.FixtureRequest, new_database: Callable[[], str]) -> Iterator[Scene]:
    url = new_database()
    with_connection(url, migrate)
    execute(url, "".join(f"ALTER TABLE {table} SET (autovacuum_enabled = off);" for table in (*TABLES, "processes")))
    with closing(asyncio.new_event_loop()) as loop:
        planned = loop.run_until_complete(planned_session(url)) if request.param == PLANNED_WHILE_EMPTY else None
        execute(url, ANALYZED.get(request.param, ANALYZED["never"]))
        yield Scene(url, loop, planned)
        if planned:
            loop.run_until_complete(planned.close())


async def planned_session(url: str) -> asyncpg.Connection:
    """Open a session like the program's and plan every statement of a request in it."""
    connection: asyncpg.Connection = await asyncpg.connect(url, **DIRECT_OPTIONS)
    missing = uuid4()
    await reply_begin.begin(connection, [])
    await reply_end.finish(connection, [])
    for again in (False, True):
        await reply_lines.append(connection, OWNER, [str(missing)], [0], [b"line"], [], again)
    await reply_lines.read_page(connection, "", missing, 2, 3600, 1_000, 65_536)
    await replies.find(connection, "", missing)
    await replies.find_streaming(connection, "", "missing")
    await replies.request_stop(connection, "", missing)
    await replies.find_source(connection, "", missing)
    await replies.find_newest(connection, "", "missing", "m", [Message("user", "hi")])
    await course.claim_conversation(connection, "", "missing", missing, OWNER)
    await course.replace_conversation(connection, "", "missing", [], missing)
    await course.release_conversation(connection, "", missing)
    await messages.read_page(connection, "", "missing", 51, None)
    await messages.read_sizes(connection, "", "missing", 50, messages.MAX_SEQ, 1_000_000)
    await course.read_chatt_sizes(connection, "", 100, 1_000_000)
    await course.read_chatts(connection, "", [1, 2])
    await sent_messages.read_sent(connection, "", "missing", ContextBounds(1, 2))
    await reduction.reduce_context(connection, "", missing, OWNER, 1)
    await replies.find_state(connection, "", "missing")
    await cuts.read_conversation(connection, "", missing, 500, 1_000_000)
    await cuts.store_cut(connection, "", missing, OWNER, 1, 4_096, None, True)
    await summaries.read_unsummarised(connection, "", missing, 500, 1_000_000)
    await summaries.store_summary(connection, "", Unsummarised("missing", "{}", None, 1, []), "text")
    await summaries.edit_summary(connection, "", "missing", 1, "text")
    await summaries.remove_orphaned_summaries(connection, "", "missing")
    await cuts.remove_cut(connection, "", missing, OWNER, 1)
    await cuts.leave_out_messages(connection, "", missing, OWNER, 1)
    await ownership.adopt(connection, ownership.Orphan(missing, OWNER), 2)
    await ownership.count_continuation(connection, "", missing, 2)
    await ownership.release(connection, 2, [missing])
    await messages.delete_conversation_messages(connection, "", "missing", 0)
    return connection


READ = """
    SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(relation)), 0)
    FROM (
        SELECT oid AS relation FROM pg_class WHERE relname = ANY ($1) UNION ALL
        SELECT indexrelid FROM pg_index JOIN pg_class ON oid = indrelid WHERE relname = ANY ($1)
    ) AS relations
"""
"""Number of rows and index entries of the tables that this transaction has read."""


async def streaming(connection: asyncpg.Connection, count: int) -> list[UUID]:
    query = "SELECT id FROM replies WHERE status = 'streaming' AND owner = $1 ORDER BY id LIMIT $2"
    return [row["id"] for row in await connection.fetch(query, OWNER, count)]


def new(appid: str) -> NewReply:
    return NewReply(uuid4(), "", appid, "m", "{}", OWNER, f"key {uuid4()}", [Message("user", "hi")], 500, 1_000_000)


@pytest.mark.parametrize("count", [1, BATCH])
def test_begin_reads_only_the_conversations(scene: Scene, count: int) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        begun = await reply_begin.begin(connection, [new(f"app{number}") for number in range(count)])
        assert all(len(result.context or ()) == 20 for result in begun)

    assert scene.rows_read(work) <= count * 60


@pytest.mark.parametrize("count", [1, BATCH])
def test_begin_and_finish_without_a_prompt_read_only_the_conversations(scene: Scene, count: int) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        batch = [replace(new(f"app{number}"), messages=[]) for number in range(1, 2 * count, 2)]
        begun = await reply_begin.begin(connection, batch)
        assert all(len(result.context or ()) == 20 and result.continues_at == 100 for result in begun)
        message = Message("assistant", "text")
        endings = [FinishRequest(one.id, "", OWNER, "done", None, message, 0, ["last"], []) for one in batch]
        assert await reply_end.finish(connection, endings) == [FinishResult.STORED] * count

    assert scene.rows_read(work) <= count * 90


def test_a_repeated_prompt_is_found_by_key(scene: Scene) -> None:
    def prompt() -> NewReply:
        return replace(new("app9"), idempotency_key=None)

    async def work(connection: asyncpg.Connection) -> None:
        [first] = await reply_begin.begin(connection, [failed := prompt()])
        assert len(first.context or ()) == 20
        ending = FinishRequest(failed.id, "", OWNER, "failed", "why", None, 0, ["last"], [])
        assert await reply_end.finish(connection, [ending]) == [FinishResult.STORED]
        [second] = await reply_begin.begin(connection, [prompt()])
        assert len(second.context or ()) == 20

    async def fail_often(connection: asyncpg.Connection) -> None:
        await connection.execute(
            """
            INSERT INTO replies (id, tenant, appid, model, request, owner, status, finished, context_last, started)
            SELECT gen_random_uuid(), '', 'app9', 'm', '{}', 1, 'failed', now(), n, now() - n * interval '1 s'
            FROM generate_series(1, 1000) AS n
            """
        )

    async def fail_often_before(connection: asyncpg.Connection) -> None:
        await fail_often(connection)
        await work(connection)

    assert scene.rows_read(work) <= 200
    assert scene.rows_read(fail_often_before) - scene.rows_read(fail_often) <= 250


def test_a_rejected_begin_does_not_read_the_conversation(scene: Scene) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        await connection.execute("UPDATE replies SET appid = 'app7' WHERE appid = 'running7'")
        [result] = await reply_begin.begin(connection, [new("app7")])
        assert result.running

    async def only_update(connection: asyncpg.Connection) -> None:
        await connection.execute("UPDATE replies SET appid = 'app7' WHERE appid = 'running7'")

    assert scene.rows_read(work) - scene.rows_read(only_update) <= 20


@pytest.mark.parametrize("count", [1, BATCH])
def test_a_rejected_begin_reads_few_rows(scene: Scene, count: int) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        begun = await reply_begin.begin(connection, [new(f"running{number + 1}") for number in range(count)])
        assert all(result.running for result in begun)

    assert scene.rows_read(work) <= count * 20


@pytest.mark.parametrize("count", [1, BATCH, 64])
def test_finish_reads_only_the_replies(scene: Scene, count: int) -> None:
    async def find(connection: asyncpg.Connection) -> list[UUID]:
        return await streaming(connection, count)

    ids = with_connection(scene.url, find)

    async def work(connection: asyncpg.Connection) -> None:
        message = Message("assistant", "text")
        endings = [FinishRequest(id, "", OWNER, "done", None, message, 10, ["last"], [f"lines {id}"]) for id in ids]
        assert await reply_end.finish(connection, endings) == [FinishResult.STORED] * count

    assert scene.rows_read(work) <= count * 30


@pytest.mark.parametrize("again", [False, True])
def test_append_reads_only_whether_its_lines_exist(scene: Scene, again: bool) -> None:
    async def find(connection: asyncpg.Connection) -> list[UUID]:
        return await streaming(connection, 100)

    keys = [str(id) for id in with_connection(scene.url, find)]

    async def work(connection: asyncpg.Connection) -> None:
        assert await reply_lines.append(connection, OWNER, keys, [10] * 100, [b"line"] * 100, [], again)

    assert scene.rows_read(work) <= 100


@pytest.mark.parametrize("status", ["streaming", "done"])
def test_reading_a_page_of_the_log_reads_only_that_page(scene: Scene, status: str) -> None:
    async def find(connection: asyncpg.Connection) -> UUID:
        found: UUID = await connection.fetchval("SELECT id FROM replies WHERE status = $1 LIMIT 1", status)
        return found

    id = with_connection(scene.url, find)

    async def work(connection: asyncpg.Connection) -> None:
        page = await reply_lines.read_page(connection, "", id, 2, 3600, 1_000, 65_536)
        assert page and len(page.lines) == (8 if status == "streaming" else 2)

    assert scene.rows_read(work) <= 30


def test_a_conversation_is_cut_without_reading_others(scene: Scene) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        page = await messages.read_page(connection, "", "app11", 51, None)
        reply = new("app11")
        [begun] = await reply_begin.begin(connection, [reply])
        assert begun.cut is None
        assert await cuts.store_cut(connection, "", reply.id, OWNER, page[10].seq, 4_096, None, True) == 10
        conversation = await cuts.read_conversation(connection, "", reply.id, 500, 1_000_000)
        assert conversation and conversation.cut == Cut(page[10].seq, 4_096, 10)
        assert len(conversation.messages) == len(page) + 1
        await cuts.leave_out_messages(connection, "", reply.id, OWNER, conversation.messages[-1].seq)
        await cuts.remove_cut(connection, "", reply.id, OWNER, page[0].seq)
        assert (await replies.find_state(connection, "", "app11")).streaming == reply.id

    assert scene.rows_read(work) <= 320


def test_a_conversation_is_summarised_without_reading_others(scene: Scene) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        page = await messages.read_page(connection, "", "app11", 51, None)
        first = new("app11")
        await reply_begin.begin(connection, [first])
        await cuts.store_cut(connection, "", first.id, OWNER, page[10].seq, 4_096, None, True)
        found = await summaries.read_unsummarised(connection, "", first.id, 500, 1_000_000)
        assert found and (found.appid, found.until, len(found.messages)) == ("app11", page[9].seq, 10)
        assert not await summaries.store_summary(connection, "", found, "while the reply streams")
        ended = FinishRequest(first.id, "", OWNER, "done", None, None, 0, [], [])
        assert await reply_end.finish(connection, [ended]) == [FinishResult.STORED]
        assert await summaries.store_summary(connection, "", found, "text")
        assert await summaries.edit_summary(connection, "", "app11", page[9].seq, "edited")
        assert not await summaries.store_summary(connection, "", found, "after an edit")
        assert await summaries.read_unsummarised(connection, "", first.id, 500, 1_000_000) is None
        [begun] = await reply_begin.begin(connection, [new("app11")])
        assert begun.summary and begun.context and begun.context[0].content.endswith("edited")
        await summaries.remove_orphaned_summaries(connection, "", "app11")
        state = await replies.find_state(connection, "", "app11")
        assert state.summary and state.summary.text == "edited"

    assert scene.rows_read(work) <= 520


def test_the_other_statements_of_a_request_select_by_key(scene: Scene) -> None:
    async def find(connection: asyncpg.Connection) -> UUID:
        [id] = await streaming(connection, 1)
        return id

    id = with_connection(scene.url, find)

    async def work(connection: asyncpg.Connection) -> None:
        assert await replies.find(connection, "", id)
        assert await replies.find_streaming(connection, "", "running1")
        assert await replies.request_stop(connection, "", id)
        assert await replies.find_source(connection, "", id)
        newest = await replies.find_newest(connection, "", "running1", "m", [])
        assert newest == await replies.find_streaming(connection, "", "running1")
        assert await replies.find_newest(connection, "", "app7", "m", [Message("user", "hi")]) is None
        page = await messages.read_page(connection, "", "app7", 51, None)
        assert len(page) == 20
        bounds = ContextBounds(page[5].seq, page[-1].seq, images_after=page[9].seq)
        assert len(await sent_messages.read_sent(connection, "", "app7", bounds)) == 15
        assert await reduction.reduce_context(connection, "", id, OWNER, 1) is None
        assert await ownership.adopt(connection, ownership.Orphan(id, OWNER), 2)
        assert await ownership.count_continuation(connection, "", id, 2) == 1
        await ownership.release(connection, 2, [id])
        assert await messages.delete_conversation_messages(connection, "", "running1", 0)
        assert await messages.delete_conversation_messages(connection, "", "app7", 0) is None
        claim = UUID(int=1)
        assert await course.claim_conversation(connection, "", "app8", claim, OWNER) is None
        assert await course.replace_conversation(connection, "", "app8", [Message("user", "hi")], claim)
        await course.release_conversation(connection, "", claim)

    assert scene.rows_read(work) <= 320


@pytest.mark.parametrize(("limit", "size"), [(5, 1_000_000), (500, 550)])
def test_the_sizes_of_a_page_are_read_of_that_page_and_one_message_more(scene: Scene, limit: int, size: int) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        page = await messages.read_sizes(connection, "", "app7", limit, messages.MAX_SEQ, size)
        assert page.has_older and [size for _, size in page.sizes] == [100] * 5

    assert scene.rows_read(work) <= 2 * (5 + 1 + 1)


def test_messages_without_an_appid_are_read_by_key(scene: Scene) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        assert await course.read_chatt_sizes(connection, "", 100, 1_000_000) == []
        assert await course.read_chatts(connection, "", [1, 2, 3]) == []

    assert scene.rows_read(work) <= 10


@pytest.mark.parametrize("retention", [0, 3600])
def test_prune_reads_only_what_it_deletes(scene: Scene, retention: float) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        assert await reply_lines.prune(connection, retention, 5_000) == (0 if retention else 500)

    assert scene.rows_read(work) <= (200 if retention else 5_000)


def test_a_sweep_reads_only_streaming_replies(scene: Scene) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        assert len(await ownership.find_owned(connection, OWNER)) in range(STREAMING // 3, STREAMING // 3 + 2)
        assert await ownership.find_orphans(connection, 5) == []

    assert scene.rows_read(work) <= 6 * STREAMING
