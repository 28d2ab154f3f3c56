"""Texts that PostgreSQL refuses: the error says what is wrong with them."""

import asyncio

import pytest

from db.pool import Database
from errors import NotAcceptable


@pytest.mark.parametrize(
    ("statement", "text", "reason"),
    [
        ("SELECT $1::text", "a\0b", "it contains a NUL character"),
        ("SELECT $1::text", "a\ud800b", "half of a surrogate pair"),
        ("SELECT $1::text::jsonb", '"\\u0000"', "it contains a NUL character"),
        ("SELECT $1::text::json ->> 0", '["\\u0000"]', "it contains a NUL character"),
        ("SELECT $1::text::jsonb", '"\\ud800"', "half of a surrogate pair"),
        ("SELECT $1::text::json", "{", "JSON that PostgreSQL does not accept"),
        ("SELECT $1::text::jsonb", "1e999999", "a number out of the range"),
        ("SELECT $1::text::jsonb", "[" * 100_000, "nested more deeply"),
        ("INSERT INTO chatts (username, message, appid, tenant) VALUES ('user', '', $1, '')", "a" * 200, "too long"),
    ],
)
def test_the_sentence_says_why_a_text_is_refused(database_url: str, statement: str, text: str, reason: str) -> None:
    async def run() -> None:
        database = Database(database_url, 1, 5.0)
        await database.open()
        try:
            with pytest.raises(NotAcceptable, match=f"The database cannot store this text: .*{reason}"):
                async with database.acquire() as connection:
                    await connection.fetch(statement, text)
        finally:
            await database.close()

    asyncio.run(run())
