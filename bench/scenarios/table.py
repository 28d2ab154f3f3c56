"""Every contender under one load: all prompts at once first, then 200 streams of 50 lines a second."""

from bench.scenarios.context import Context
from bench.scenarios.loads import burst, steady_streams


def measure(context: Context) -> None:
    """Measure all contenders. Values of the simultaneous prompts begin with ``burst_``."""
    for run in context.runs():
        for contender in context.order(run, context.contenders):
            with context.row("table", contender.key), context.site(contender) as site:
                at_once = site.run_clients(burst(context.plan))
                values = site.run(steady_streams(context.plan, *context.plan.table))
                values |= {f"burst_{name}": at_once[name] for name in at_once if not name.startswith("latency")}
                context.keep("table", contender.key, run, values | {"ready_s": site.server.seconds_to_ready})
