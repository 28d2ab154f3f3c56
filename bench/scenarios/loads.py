"""The loads that several scenarios use."""

from bench.measuring.load_generator import Traffic, steady
from bench.plan import Plan

FIRST_LINES = 2
"""Lines of the replies whose first event is measured: few and fast, so that the next prompt meets an idle server."""

FIRST_RATE = 1_000


def steady_streams(plan: Plan, streams: int, rate: float) -> Traffic:
    """Return streams that start one after the other and then all run for ``plan.seconds``."""
    return steady(streams, rate, plan.seconds, plan.begin_rate)


def burst(plan: Plan) -> Traffic:
    """Return simultaneous prompts."""
    return Traffic(plan.burst, FIRST_RATE, FIRST_LINES, appid="burst")


def one_at_a_time(prompts: int, appid: str = "one", one_conversation: bool = False, direct: bool = False) -> Traffic:
    """Return prompts of which each follows the end of the previous reply."""
    return Traffic(
        prompts, FIRST_RATE, FIRST_LINES, at_once=1, appid=appid, one_conversation=one_conversation, direct=direct
    )
