"""How much is measured: everything, the quick form, and the form that compares revisions."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the measurements. Times are in seconds.

    :param runs: how often each measurement is made.
    :param seconds: how long the streams of a steady load all run at the same time.
    :param begin_rate: how many of them start each second.
    :param burst: simultaneous prompts, each on an idle server.
    :param table: streams, and lines a second of each, of the table.
    :param latency: the same, of the latencies.
    :param scaling: numbers of streams to measure at, with ``scaling_rate`` lines a second, for ``scaling_seconds``.
    :param prompts: prompts, one after the other, whose time to the first event is measured.
    :param rows: messages in the large table, one in ``one_in`` of them in the prompts' conversation; 0 to leave it out.
    :param history: messages in a conversation before each of ``history_prompts`` prompts.
    :param replies: numbers of streaming replies whose memory is measured, of ``replies_rate`` lines a second,
        ``replies_begin_rate`` of which start each second.
    :param viewers: numbers of idle viewers whose memory is measured.
    :param long_lines: length of the long reply, of ``long_rate`` lines a second.
    :param window: tokens in the window of the embedded model, which answers ``window_turns`` prompts of a conversation
        with at most ``window_reply`` tokens each.
    """

    runs: int = 5
    seconds: float = 5.0
    begin_rate: float = 250.0
    burst: int = 200
    table: tuple[int, float] = (200, 50)
    latency: tuple[tuple[int, float], ...] = ((1_500, 20), (1, 50))
    scaling: tuple[int, ...] = (1, 20, 100, 400)
    scaling_rate: float = 20
    scaling_seconds: float = 3.0
    prompts: int = 200
    rows: int = 1_000_000
    one_in: int = 100
    history: tuple[int, ...] = (10, 100, 1_000, 10_000)
    history_prompts: int = 50
    replies: tuple[int, ...] = (400, 2_000)
    replies_rate: float = 2
    replies_begin_rate: float = 400.0
    replies_seconds: float = 3.0
    viewers: tuple[int, ...] = (0, 1_000, 2_000)
    long_lines: int = 100_000
    long_rate: float = 5_000
    window: int = 2_048
    window_turns: int = 60
    window_reply: int = 32


FULL = Plan()
"""About 45 minutes on 2 cores, half of them for the window that Ollama cuts message by message."""

QUICK = Plan(
    runs=1,
    seconds=1.5,
    latency=((400, 20), (1, 50)),
    scaling=(1, 20, 100),
    scaling_seconds=1.5,
    prompts=50,
    rows=0,
    history=(10, 1_000),
    history_prompts=20,
    replies=(30, 100),
    replies_seconds=1.5,
    viewers=(0, 400),
    long_lines=20_000,
    window=256,
    window_turns=6,
    window_reply=8,
)
"""About two minutes; its figures are for checking the benchmark itself."""


def for_revisions(plan: Plan) -> Plan:
    """Return a plan for comparing revisions: for two, 5 full runs take about 10 minutes."""
    return dataclasses.replace(
        plan, latency=plan.latency[:1], replies=tuple(min(number, 1_000) for number in plan.replies), rows=0
    )
