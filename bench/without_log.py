"""``python -m bench.without_log``: chatterd that keeps prompts and replies, but no log of the lines it shows."""

from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch

import server
from db import lines, replies

_finish: Callable[..., Awaitable[replies.Finished]] = replies.finish


async def _append(*_: Any) -> bool:
    """Say that a round of lines is written."""
    return True


async def _finish_without_lines(*arguments: Any) -> replies.Finished:
    """End a reply that has no lines in the log; those left out here are the number of the first, and the last ones."""
    *others, _first, _lines, notices = arguments
    return await _finish(*others, 0, (), notices)


if __name__ == "__main__":
    with patch.object(lines, "append", _append), patch.object(replies, "finish", _finish_without_lines):
        server.main()
