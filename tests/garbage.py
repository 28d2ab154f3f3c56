"""chatterd, which reports on SIGUSR1 what only the cyclic garbage collector frees: ``python -m tests.garbage``."""

import gc
import runpy
import signal
import sys
from collections import Counter
from types import FrameType

CLASS_IN_FUNCTION = ("cell", "dict", "function", "getset_descriptor", "tuple", "type")
"""Kinds of objects of which a class consists. asyncpg makes one for each statement that it cancels
(``connect_utils.py``, ``_cancel``): a class refers to itself. Whatever matters has other objects, too."""


def _describe(one: object) -> str:
    kind = type(one)
    name = f" {one.__module__}.{one.__qualname__}" if isinstance(one, type) else ""
    return f"{kind.__module__}.{kind.__qualname__}{name}"


def _report(_signal: int, _frame: FrameType | None) -> None:
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    kinds = Counter(map(_describe, gc.garbage))
    gc.garbage.clear()
    if all(kind.split()[0].removeprefix("builtins.") in CLASS_IN_FUNCTION for kind in kinds):
        kinds.clear()
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"garbage: {found or 'none'}", file=sys.stderr, flush=True)


signal.signal(signal.SIGUSR1, _report)
runpy.run_path("server.py", run_name="__main__")
