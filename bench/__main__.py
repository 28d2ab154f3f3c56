"""``python -m bench``: measure chatterd and its peers, or revisions of chatterd, and write the results.

The full form writes bench/results.json, docs/benchmarks.md and docs/bench-*.png; the quick form the same to
bench/build/quick. Sections that ``--only`` leaves out are kept. A comparison of revisions writes
bench/build/revisions.md only.
"""

import argparse
import signal
import sys
from types import FrameType

from bench import benchmark
from bench.errors import BenchError
from bench.scenarios import FOR_REVISIONS, SCENARIOS
from bench.servers.catalog import CONTENDERS


def main() -> None:
    """Run what the command line names. Exits with status 1 and a sentence on failure."""
    options = _options()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.report_only:
            benchmark.write_report()
        elif options.revisions:
            benchmark.compare_revisions(options)
        else:
            benchmark.measure(options)
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; all processes that it started have been stopped.")


def _options() -> argparse.Namespace:
    keys = [contender.key for contender in CONTENDERS]
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure chatterd and its peers.")
    parser.add_argument("--quick", action="store_true", help="the quick form, about two minutes")
    parser.add_argument(
        "--only",
        type=_words,
        help=f"of {','.join(SCENARIOS)}; default: all, or {','.join(FOR_REVISIONS)} with --revisions",
    )
    parser.add_argument("--peers", type=_words, help=f"of {','.join(keys)}; default: all, or none with --revisions")
    parser.add_argument("--runs", type=int, help="runs of each measurement; default: 5, in the quick form 1")
    parser.add_argument(
        "--revisions", type=_words, help="compare these git revisions of chatterd; worktree: the tree as it is"
    )
    parser.add_argument("--report-only", action="store_true", help="write the report from results.json again")
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if unknown := set(options.peers or ()) - set(keys):
        parser.error(f"no such contender: {', '.join(unknown)}; there are {', '.join(keys)}")
    return options


def _words(text: str) -> list[str]:
    return text.split(",")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop everything on Ctrl-C or SIGTERM, and ignore further signals meanwhile."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
