"""The metrics of a process: counters, gauges and histograms as in Prometheus. Pure: no clock, no I/O."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence

STATUSES = ("done", "stopped", "failed", "truncated", "interrupted")
"""How a reply can end; see ``replies.status`` in the database."""

FAILURES = ("failed", "truncated", "interrupted")
"""Those that are errors."""

SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.025, 0.04, 0.06),
    *(0.1, 0.16, 0.25, 0.4, 0.6, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
"""Default upper bounds of buckets: from the latency of a line to the loading of a large model."""

REPLY_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0)
"""Upper bounds of the buckets for the duration of a reply."""


class Histogram:
    """Counts values in buckets.

    :ivar counts: number of values in each bucket, not cumulated; the last bucket has no upper bound.
    :ivar sum: sum of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0.0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def spread(self, low: float, high: float, count: int) -> None:
        """Count ``count`` values, assumed to be evenly distributed between the lowest and the highest of them."""
        self.sum += count * (low + high) / 2
        first, last = bisect_left(self.bounds, low), bisect_left(self.bounds, high)
        if first >= last:
            self.counts[first] += count
            return
        density = count / (high - low)
        for index in range(first, last):
            self.counts[index] += density * (self.bounds[index] - low)
            low = self.bounds[index]
        self.counts[last] += density * (high - low)


def quantile(q: float, counts: Sequence[float], bounds: Sequence[float] = SECONDS) -> float | None:
    """Estimate the quantile ``q``, from 0 to 1, as Prometheus's ``histogram_quantile`` does.

    :param counts: see :class:`Histogram`.
    :returns: None without values; the last bound if the quantile is above it.
    """
    remaining = q * sum(counts)
    if not remaining:
        return None
    lower = 0.0
    for count, upper in zip(counts, bounds, strict=False):
        if count and remaining <= count:
            return lower + (upper - lower) * remaining / count
        remaining -= count
        lower = upper
    return lower


class Metrics:
    """The metrics of one process. Times are in seconds.

    None of them is updated per line: lines are counted per batch, per reply, or when the metrics are read.

    :ivar replies_begun: replies begun by a prompt.
    :ivar replies_adopted: replies adopted from a dead process.
    :ivar replies_continued: continuations of replies in this process after Ollama, or its runner, died.
    :ivar replies_superseded: replies without viewers that the next prompt of a plain client has stopped.
    :ivar prompts_waiting: prompts of plain clients that wait for their conversation's reply to end.
    :ivar replies_handed_over: replies that another process has adopted, or will adopt.
    :ivar replies_ended: replies that ended in this process, by status.
    :ivar reply_duration: from the prompt's arrival, or the adoption, to the reply's end, by status.
    :ivar prompt_tokens: prompt tokens of replies that are done, as counted by Ollama.
    :ivar reply_tokens: generated tokens of replies that are done, as counted by Ollama.
    :ivar past_lines: lines committed by this process of replies that it does not generate any more; lines that adopted
        replies had before are subtracted from it while they are generated.
    :ivar viewers: responses that show a reply now.
    :ivar viewers_dropped: viewers whose client did not read for too long, or whose reply could not be shown further.
    :ivar first_event: from the prompt's arrival to the reply's first event; mostly the model's time.
    :ivar line_latency: from reading a line from Ollama to writing it to the viewers' sockets.
    :ivar journal_batch: PostgreSQL's time to write a batch of lines.
    :ivar begin_statement: PostgreSQL's time for a statement that begins replies.
    :ivar end_statement: PostgreSQL's time for a statement that ends replies.
    :ivar database_wait: waiting time for a connection of the pool.
    :ivar loop_lag: delay of the event loop's timers.
    :ivar requests: finished requests by method, route and status, including those that no handler has received.
    :ivar request_duration: from a request's headers to the end of its response, by route; without streams.
    """

    def __init__(self) -> None:
        self.replies_begun = 0
        self.replies_adopted = 0
        self.replies_continued = 0
        self.replies_superseded = 0
        self.prompts_waiting = 0
        self.replies_handed_over = 0
        self.replies_ended = dict.fromkeys(STATUSES, 0)
        self.reply_duration = {status: Histogram(REPLY_SECONDS) for status in STATUSES}
        self.prompt_tokens = 0
        self.reply_tokens = 0
        self.past_lines = 0
        self.viewers = 0
        self.viewers_dropped = 0
        self.first_event = Histogram()
        self.line_latency = Histogram()
        self.journal_batch = Histogram()
        self.begin_statement = Histogram()
        self.end_statement = Histogram()
        self.database_wait = Histogram()
        self.loop_lag = Histogram()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.request_duration: defaultdict[str, Histogram] = defaultdict(Histogram)
