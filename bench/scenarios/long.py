"""A long reply, its first seconds against its last; prompts after a long history."""

from bench.errors import BenchError
from bench.measuring.load_generator import Traffic
from bench.measuring.postgres import fill_conversations
from bench.measuring.reading import Reading, cpu_us_per_line
from bench.measuring.site import Site
from bench.scenarios.context import Context
from bench.scenarios.loads import one_at_a_time

Window = tuple[Reading, Reading]


def measure(context: Context) -> None:
    """Measure both."""
    for run in context.runs():
        for contender in context.order(run, context.durable):
            row = f"{contender.key} reply"
            with context.row("long", row), context.site(contender) as site:
                traffic = Traffic(1, context.plan.long_rate, context.plan.long_lines, appid="long")
                begin, end = _fifths(_readings(site, traffic))
                values = {"begin_us": cpu_us_per_line(*begin), "end_us": cpu_us_per_line(*end)}
                context.keep("long", row, run, values)
    _measure_history(context)


def _measure_history(context: Context) -> None:
    plan = context.plan
    with context.row("long", "history"), context.sites(context.durable) as sites:
        for site in sites.values():
            context.report("long: writing conversations")
            for messages in plan.history:
                fill_conversations(site.database_url, f"history{messages}", plan.history_prompts, messages)
        for run in context.runs():
            for messages in plan.history:
                traffic = one_at_a_time(plan.history_prompts, appid=f"history{messages}")
                for contender in context.order(run, context.durable):
                    values = sites[contender.key].run_clients(traffic)
                    context.keep("long", f"{contender.key} history {messages}", run, values)


def _readings(site: Site, traffic: Traffic) -> list[Reading]:
    """Run a load to its end, and read the clocks once a second while all its streams run."""
    with site.load(traffic) as load:
        return [site.read(event, load) for event in load.events() if event["event"] in ("steady", "tick", "ending")]


def _fifths(readings: list[Reading]) -> tuple[Window, Window]:
    """Return the first and the last fifth of a load's time."""
    if len(readings) < 3:
        raise BenchError("the load ended too soon to compare its beginning and its end")
    fifth = max(1, len(readings) // 5)
    return (readings[0], readings[fifth]), (readings[-1 - fifth], readings[-1])
