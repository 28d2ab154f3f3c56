"""The same rate for more and more streams. The highest number is in the latencies already."""

from bench.measuring.load_generator import steady
from bench.scenarios.context import Context


def measure(context: Context) -> None:
    """Measure CPU time and latency against the number of streams."""
    plan = context.plan
    for run in context.runs():
        for streams in plan.scaling:
            traffic = steady(streams, plan.scaling_rate, plan.scaling_seconds, plan.begin_rate)
            for contender in context.order(run, context.compared):
                row = f"{contender.key} streams {streams}"
                with context.row("scaling", row), context.site(contender) as site:
                    context.keep("scaling", row, run, site.run(traffic))
