"""``python -m bench.without_log``: chatterd that keeps prompts and replies, but no log of the lines it shows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import asyncpg

import server
from db import reply_end, reply_lines
from db.reply_end import FinishRequest, FinishResult

_finish = reply_end.finish


async def _append(*_: Any) -> bool:
    """Say that a round of lines is written."""
    return True


async def _finish_without_lines(connection: asyncpg.Connection, endings: Sequence[FinishRequest]) -> list[FinishResult]:
    """End replies that have no lines in the log."""
    return await _finish(connection, [replace(ending, first=0, lines=()) for ending in endings])


if __name__ == "__main__":
    with patch.object(reply_lines, "append", _append), patch.object(reply_end, "finish", _finish_without_lines):
        server.main()
