"""``python -m tests.soak [campaign ...] [--count=N] [--seed=S] [--write]``: run campaigns and print their results.

Exit status 1 if a line was lost, doubled or out of order, a reply never ended, or another check failed.
"""

import argparse
import asyncio
import random
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.soak.campaigns import CAMPAIGNS

RESULTS = Path(__file__).parent / "results.md"

MARK = re.compile(r"^<!-- ([a-z-]+) -->\n", re.MULTILINE)
"""Stands before each campaign's table in :data:`RESULTS`."""


def write(tables: Mapping[str, str]) -> None:
    """Write tables by their campaigns' names; those of campaigns that did not run stay."""
    _, *old = MARK.split(RESULTS.read_text() if RESULTS.exists() else "")
    known = {**dict(zip(old[::2], old[1::2], strict=True)), **{name: f"{table}\n" for name, table in tables.items()}}
    RESULTS.write_text("".join(f"<!-- {name} -->\n{known[name]}" for name in CAMPAIGNS if name in known))


def main() -> None:
    """Run the campaigns that the command line names, by default all."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n\n")[1])
    parser.add_argument("campaigns", nargs="*", metavar="campaign", help=f"of {', '.join(CAMPAIGNS)}; default: all")
    parser.add_argument(
        "--count", type=int, help="how often something is killed or repeated; default: as in docs/reliability.md"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="default: a new one")
    parser.add_argument("--write", action="store_true", help=f"replace their results in {RESULTS.name}")
    options = parser.parse_args()
    if unknown := set(options.campaigns) - set(CAMPAIGNS):
        parser.error(f"no such campaign: {', '.join(unknown)}")
    tables, well = {}, True
    for name in options.campaigns or CAMPAIGNS:
        run, count = CAMPAIGNS[name]
        print(f"{name}, seed {options.seed}", flush=True)
        result = asyncio.run(run(options.count or count, options.seed))
        print(result.markdown(), flush=True)
        tables[name] = result.markdown()
        well = well and not result.wrong
    if options.write:
        write(tables)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
