"""chatterd, which reports on SIGUSR1 what only the cyclic garbage collector frees: ``python -m tests.garbage``."""

import gc
import runpy
import signal
import sys
from collections import Counter
from types import FrameType


def _report(_signal: int, _frame: FrameType | None) -> None:
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    gc.garbage.clear()
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"garbage: {found or 'none'}", file=sys.stderr, flush=True)


signal.signal(signal.SIGUSR1, _report)
runpy.run_path("server.py", run_name="__main__")
