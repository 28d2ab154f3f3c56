"""The two forms of the benchmark: chatterd beside its peers, and revisions of chatterd beside each other."""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError
from bench.measuring import cores, load_generator, machine
from bench.measuring.postgres import Postgres
from bench.paths import BUILD, ROOT
from bench.plan import FULL, QUICK, Plan, for_revisions
from bench.reporting import plots
from bench.reporting.machines import Machines
from bench.reporting.markdown import results_md
from bench.reporting.remarks import interference
from bench.reporting.results import Results
from bench.reporting.revisions import revisions_md
from bench.scenarios import FOR_REVISIONS, SCENARIOS
from bench.scenarios.context import Context
from bench.servers.catalog import CHATTERD, CONTENDERS, REFERENCE
from bench.servers.contender import Contender
from bench.servers.revisions import checked_out

QUICK_FOLDER = BUILD / "quick"

BUSY_LOAD = 0.5
"""Load average at the start from which on others are using the machine."""

Report = Callable[[str], None]


def measure(options: argparse.Namespace) -> None:
    """Measure chatterd and its peers, and write the results."""
    report = _reporter()
    folder = QUICK_FOLDER if options.quick else ROOT / "bench"
    _prepare(report)
    contenders = [_set_up(one, report) for one in CONTENDERS if not options.peers or one.key in options.peers]
    compared = [one for one in contenders if one.key == CHATTERD.key or _available_reference(one)]
    with Postgres() as postgres:
        results = Results(machine.describe(postgres.url), options.quick)
        machines = Machines.load(folder / "results.json")
        if options.only:
            _keep_sections(results, machines, report)
        _name(results, CONTENDERS)
        with _context(_plan(options), contenders, compared, postgres, results, report) as context:
            _run(context, options.only or list(SCENARIOS))
    machines.results[results.cpu] = results
    machines.save(folder / "results.json")
    _write(machines, QUICK_FOLDER if options.quick else ROOT / "docs", report)


def compare_revisions(options: argparse.Namespace) -> None:
    """Measure revisions of chatterd beside each other, and write the comparison to bench/build."""
    report = _reporter()
    _prepare(report)
    with checked_out(options.revisions) as revisions, Postgres() as postgres:
        peers = [one for one in CONTENDERS if one.key in (options.peers or ())]
        contenders = [_set_up(one, report) for one in (*revisions, *peers)]
        if unavailable := next((one.unavailable for one in contenders if one.unavailable), None):
            raise BenchError(unavailable)
        results = Results(machine.describe(postgres.url), options.quick)
        _name(results, contenders)
        plan = for_revisions(_plan(options))
        with _context(plan, contenders, contenders, postgres, results, report) as context:
            _run(context, options.only or FOR_REVISIONS)
    path = BUILD / "revisions.md"
    path.with_suffix(".json").write_text(json.dumps(vars(results), indent=1) + "\n")
    text = revisions_md(results)
    path.write_text(text)
    report(f"written: {path.relative_to(ROOT)}, {path.with_suffix('.json').relative_to(ROOT)}")
    print(f"\n{text}")


def write_report() -> None:
    """Write docs/benchmarks.md and the plots from results.json again."""
    _write(Machines.load(ROOT / "bench/results.json"), ROOT / "docs", _reporter())


def _prepare(report: Report) -> None:
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        report(f"WARNING: the machine is busy, its load average is {load:.1f}: figures may be wrong")
    cores.prepare()
    load_generator.build()


def _set_up(contender: Contender, report: Report) -> Contender:
    report(f"setting up {contender.label}")
    unavailable = contender.set_up()
    if unavailable:
        report(f"{contender.label} is unavailable: {unavailable}")
    return dataclasses.replace(contender, unavailable=unavailable)


def _available_reference(contender: Contender) -> bool:
    return contender.key == REFERENCE.key and not contender.unavailable


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    return dataclasses.replace(plan, runs=options.runs) if options.runs else plan


def _name(results: Results, contenders: Sequence[Contender]) -> None:
    for contender in contenders:
        results.labels[contender.key] = contender.label
        results.durable[contender.key] = contender.durable


def _keep_sections(results: Results, machines: Machines, report: Report) -> None:
    if kept := machines.earlier(results):
        results.measured, results.sections, results.failures = kept.measured, kept.sections, kept.failures
    elif results.cpu in machines.results:
        report("earlier results of this CPU are discarded: kernel, Python or PostgreSQL have changed")


@contextmanager
def _context(
    plan: Plan,
    contenders: Sequence[Contender],
    compared: Sequence[Contender],
    postgres: Postgres,
    results: Results,
    report: Report,
) -> Iterator[Context]:
    with tempfile.TemporaryDirectory(prefix="chatterd-bench-") as folder:
        yield Context(plan, contenders, compared, postgres, Path(folder), results, report)


def _run(context: Context, sections: Sequence[str]) -> None:
    """Run scenarios, and record how long each took."""
    results, report, commit = context.results, context.report, machine.commit()
    report(", ".join(f"{name} {value}" for name, value in (results.machine | {"commit": commit}).items()))
    for section in sections:
        started = time.monotonic()
        results.begin(section, commit)
        SCENARIOS[section](context)
        results.end(section, time.monotonic() - started)
        report(f"{section} took {time.monotonic() - started:.0f} s")
    if warning := interference(results):
        report(f"WARNING: {warning}")


def _write(machines: Machines, folder: Path, report: Report) -> None:
    text = results_md(machines)
    (folder / "benchmarks.md").write_text(text)
    written = [folder / "benchmarks.md", *plots.draw(machines.latest(), folder)]
    report("written: " + ", ".join(str(path.relative_to(ROOT)) for path in written))
    print(f"\n{text}")


def _reporter() -> Report:
    """Return a function that prints a message with the time since now."""
    started = time.monotonic()

    def report(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    return report
