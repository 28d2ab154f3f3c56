"""``python -m bench [--quick] [--only=table,...] [--peers=rust,...] [--runs=N]``: measure, and write what was found.

The full form writes bench/results.json, bench/results.md and docs/bench-*.png; the quick form the same to
bench/build/quick. What ``--only`` leaves out stays as it was.
"""

import argparse
import dataclasses
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from bench import machine, plots, table, traffic
from bench.contenders import CONTENDERS
from bench.failure import Failed
from bench.plan import FULL, QUICK
from bench.postgres import Postgres
from bench.results import Results
from bench.scenarios import SCENARIOS, Bench
from bench.servers import Contender

QUICK_FOLDER = machine.ROOT / "bench/build/quick"


def main() -> None:
    """Measure what the command line names, all by default. Exit status 1 if that cannot be done."""
    options = _options()
    say = _teller()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _measure(options, say)
    except Failed as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; all that was started has been ended.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure chatterd and its peers.")
    parser.add_argument("--quick", action="store_true", help="the quick form, under two minutes")
    parser.add_argument("--only", type=_words, help=f"of {','.join(SCENARIOS)}; default: all")
    parser.add_argument("--peers", type=_words, help="keys of the contenders to compare; default: all")
    parser.add_argument("--runs", type=int, help="how often each is measured; default: 3, in the quick form 1")
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(SCENARIOS):
        parser.error(f"no such measurement: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    keys = [contender.key for contender in CONTENDERS]
    if unknown := set(options.peers or ()) - set(keys):
        parser.error(f"no such contender: {', '.join(unknown)}; there are {', '.join(keys)}")
    return options


def _words(text: str) -> list[str]:
    return text.split(",")


def _measure(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    plan = QUICK if options.quick else FULL
    if options.runs:
        plan = dataclasses.replace(plan, runs=options.runs)
    machine.prepare()
    traffic.build()
    chosen = [_set_up(one, say) for one in CONTENDERS if not options.peers or one.key in options.peers]
    say("starting PostgreSQL")
    with Postgres() as postgres, tempfile.TemporaryDirectory(prefix="chatterd-bench-") as folder:
        results = Results(machine.describe(postgres.url), options.quick)
        say(", ".join(f"{name} {value}" for name, value in results.machine.items()))
        if (busy := machine.load_average()) > 0.5:
            say(f"others are using this machine: its load average is {busy:.1f}")
        if options.only:
            results.take_over(_folder(options) / "results.json")
        _name(results)
        bench = Bench(plan, chosen, postgres, Path(folder), results, say)
        for section in options.only or SCENARIOS:
            results.begin(section)
            SCENARIOS[section](bench)
    _write(results, options, say)


def _set_up(contender: Contender, say: Callable[[str], None]) -> Contender:
    say(f"setting up {contender.label}")
    return dataclasses.replace(contender, missing=contender.set_up())


def _name(results: Results) -> None:
    for contender in CONTENDERS:
        results.labels[contender.key] = contender.label
        results.durable[contender.key] = contender.durable


def _write(results: Results, options: argparse.Namespace, say: Callable[[str], None]) -> None:
    folder = _folder(options)
    results.save(folder / "results.json")
    text = table.markdown(results)
    (folder / "results.md").write_text(text)
    drawn = plots.draw(results, QUICK_FOLDER if options.quick else machine.ROOT / "docs")
    written = [folder / "results.json", folder / "results.md", *drawn]
    say("written: " + ", ".join(str(path.relative_to(machine.ROOT)) for path in written))
    print(f"\n{text}")


def _folder(options: argparse.Namespace) -> Path:
    return QUICK_FOLDER if options.quick else machine.ROOT / "bench"


def _teller() -> Callable[[str], None]:
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)

    return say


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C and SIGTERM: end all that was started, and let no second one disturb that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
