"""One process on one core with many slow streams, and with a single one."""

from bench.scenarios.context import Context
from bench.scenarios.loads import steady_streams


def measure(context: Context) -> None:
    """Measure CPU time and added latency; rows are called ``<contender> <streams> x <lines a second>``."""
    for run in context.runs():
        for streams, rate in context.plan.latency:
            for contender in context.order(run, context.compared):
                row = f"{contender.key} {streams:,} x {rate:g}"
                with context.row("latency", row), context.site(contender) as site:
                    context.keep("latency", row, run, site.run(steady_streams(context.plan, streams, rate)))
