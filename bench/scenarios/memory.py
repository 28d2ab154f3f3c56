"""The memory of streaming replies with a viewer each, and of idle viewers of one silent reply."""

from bench.measuring import viewers
from bench.measuring.load_generator import steady
from bench.scenarios.context import Context


def measure(context: Context) -> None:
    """Measure at several numbers of each; the slope between them is the memory of one."""
    for run in context.runs():
        for replies in context.plan.replies:
            _measure_replies(context, run, replies)
        for contender in context.order(run, context.durable):
            row = f"{contender.key} viewers"
            with context.row("memory", row), context.site(contender) as site:
                for count, values in viewers.idle(site, context.plan.viewers):
                    context.keep("memory", f"{row} {count}", run, values)


def _measure_replies(context: Context, run: int, replies: int) -> None:
    plan = context.plan
    traffic = steady(replies, plan.replies_rate, plan.replies_seconds, plan.replies_begin_rate)
    for contender in context.order(run, context.compared):
        row = f"{contender.key} replies {replies}"
        with context.row("memory", row), context.site(contender) as site:
            context.keep("memory", row, run, site.run(traffic))
