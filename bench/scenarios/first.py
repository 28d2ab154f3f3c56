"""The time from a prompt to its first event on an idle server: with a new database, and with a large one."""

from bench.measuring.postgres import fill_with_others
from bench.scenarios.context import Context
from bench.scenarios.loads import one_at_a_time


def measure(context: Context) -> None:
    """Measure prompts one at a time. (Simultaneous ones are in the table.)"""
    for run in context.runs():
        for contender in context.order(run, context.compared):
            row = f"{contender.key} new"
            with context.row("first", row), context.site(contender) as site:
                if contender is context.compared[0]:
                    direct = one_at_a_time(context.plan.prompts, direct=True)
                    context.keep("first", f"{contender.key} direct", run, site.run_clients(direct))
                context.keep("first", row, run, site.run_clients(one_at_a_time(context.plan.prompts)))
    if context.plan.rows:
        _measure_large(context)


def _measure_large(context: Context) -> None:
    with context.row("first", "large"), context.sites(context.durable) as sites:
        for site in sites.values():
            context.report(f"first: writing {context.plan.rows:,} messages")
            fill_with_others(site.database_url, context.plan.rows, context.plan.one_in, "large")
        traffic = one_at_a_time(context.plan.prompts, appid="large", one_conversation=True)
        for run in context.runs():
            for contender in context.order(run, context.durable):
                context.keep("first", f"{contender.key} large", run, sites[contender.key].run_clients(traffic))
