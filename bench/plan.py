"""How much is measured: all of it, or the quick form of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of the measurements. Times are in seconds.

    :param runs: how often each is made.
    :param seconds: how long the streams of a steady load run side by side.
    :param begin_rate: how many of them begin a second.
    :param burst: prompts at once in the table's first events.
    :param table: streams and lines a second of each, of the table.
    :param latency: the same, of the latencies.
    :param scaling: numbers of streams to measure at, with ``scaling_rate`` lines a second.
    :param prompts: prompts, one after the other, whose first events are measured.
    :param rows: messages in the large table, one in ``one_in`` of them in the prompts' conversation.
    :param history: messages in a conversation before each of ``history_prompts`` prompts.
    :param replies: numbers of streaming replies whose memory is measured, of ``replies_rate`` lines a second.
    :param viewers: numbers of idle viewers whose memory is measured.
    :param long_lines: length of the long reply, of ``long_rate`` lines a second.
    :param starts: how often chatterd is started.
    """

    runs: int = 3
    seconds: float = 8.0
    begin_rate: float = 100.0
    burst: int = 200
    table: tuple[int, float] = (200, 50)
    latency: tuple[tuple[int, float], ...] = ((1_500, 20), (200, 50), (1, 50))
    scaling: tuple[int, ...] = (1, 20, 100, 400, 1_500)
    scaling_rate: float = 20
    prompts: int = 200
    rows: int = 1_000_000
    one_in: int = 100
    history: tuple[int, ...] = (10, 100, 1_000, 10_000)
    history_prompts: int = 50
    replies: tuple[int, ...] = (500, 2_000)
    replies_rate: float = 2
    replies_seconds: float = 5.0
    viewers: tuple[int, ...] = (0, 1_000, 2_000)
    long_lines: int = 100_000
    long_rate: float = 5_000
    starts: int = 5


FULL = Plan()

QUICK = Plan(
    runs=1,
    seconds=1.5,
    begin_rate=200.0,
    latency=((400, 20), (1, 50)),
    scaling=(1, 20, 100),
    prompts=50,
    rows=0,
    history=(10, 1_000),
    history_prompts=20,
    replies=(30, 100),
    replies_seconds=1.5,
    viewers=(0, 400),
    long_lines=20_000,
    starts=2,
)
"""Under two minutes."""
