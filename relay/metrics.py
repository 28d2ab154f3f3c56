"""What this process counts and times as it works: counters that only grow, gauges, histograms. Pure: no clock, no I/O.

Names, kinds and units are Prometheus's: seconds, and buckets that count what is up to their upper bound.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence

STATUSES = ("done", "stopped", "failed", "truncated", "interrupted")
"""How a reply can end, as in ``replies.status``."""

FAILURES = ("failed", "truncated", "interrupted")
"""Those of them that nobody wanted."""

SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.025, 0.04, 0.06),
    *(0.1, 0.16, 0.25, 0.4, 0.6, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
"""Upper bounds of the buckets for most times: from a line's way to a large model's load."""

REPLY_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0)
"""Upper bounds of the buckets for what a whole reply takes."""


class Histogram:
    """How often values of which size were seen.

    :ivar counts: for each bucket, the last one being without bound, how many values fell into it.
    :ivar sum: all values together.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0.0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Take one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def spread(self, least: float, most: float, count: int) -> None:
        """Take ``count`` values of which only the least and the most are known, as if they lay evenly between them."""
        self.sum += count * (least + most) / 2
        first, last = bisect_left(self.bounds, least), bisect_left(self.bounds, most)
        if first >= last:
            self.counts[first] += count
            return
        density = count / (most - least)
        for index in range(first, last):
            self.counts[index] += density * (self.bounds[index] - least)
            least = self.bounds[index]
        self.counts[last] += density * (most - least)


def quantile(part: float, counts: Sequence[float], bounds: Sequence[float] = SECONDS) -> float | None:
    """Estimate the value that ``part`` of all values do not exceed, as Prometheus's ``histogram_quantile`` does.

    :param part: from 0 to 1.
    :param counts: of the buckets, see :class:`Histogram`.
    :returns: None if there are no values; the last bound if it is somewhere beyond.
    """
    left = part * sum(counts)
    if not left:
        return None
    lower = 0.0
    for count, upper in zip(counts, bounds, strict=False):
        if count and left <= count:
            return lower + (upper - lower) * left / count
        left -= count
        lower = upper
    return lower


class Metrics:
    """The metrics of one process.

    Nothing here is touched for each line: what happens to lines is counted by round, by reply, or when asked for.

    :ivar replies_begun: by a prompt.
    :ivar replies_adopted: from a process that is gone.
    :ivar replies_moved: went on in another process, or will.
    :ivar replies_ended: here, by their status.
    :ivar reply_duration: by how it ended, seconds from a prompt's arrival, or the reply's failover, to its end.
    :ivar prompt_tokens: that Ollama says it has read for replies that are done.
    :ivar reply_tokens: that Ollama says it has generated for them.
    :ivar lines_settled: lines shown of replies that run no more, less those that adopted ones brought with them.
    :ivar viewers: that are shown a reply now.
    :ivar viewers_dropped: whose connection took nothing for too long, or whose reply could not be shown further.
    :ivar first_event: seconds from a prompt's arrival to its reply's first event; the model's time is most of it.
    :ivar line_latency: seconds from reading a line of Ollama's to handing it to the viewers' sockets.
    :ivar journal_round: seconds that PostgreSQL takes for a round of lines.
    :ivar begin_statement: seconds that PostgreSQL takes to begin replies, together.
    :ivar end_statement: seconds that PostgreSQL takes to end replies, together.
    :ivar database_wait: seconds until there is a free connection to PostgreSQL.
    :ivar loop_lag: seconds that the event loop comes late to what is due.
    :ivar requests: answered to their end, by method, route and status; those that no handler answered, too.
    :ivar request_duration: by route, seconds from a request's head to the end of its answer; streams are left out.
    """

    def __init__(self) -> None:
        self.replies_begun = 0
        self.replies_adopted = 0
        self.replies_moved = 0
        self.replies_ended = dict.fromkeys(STATUSES, 0)
        self.reply_duration = {status: Histogram(REPLY_SECONDS) for status in STATUSES}
        self.prompt_tokens = 0
        self.reply_tokens = 0
        self.lines_settled = 0
        self.viewers = 0
        self.viewers_dropped = 0
        self.first_event = Histogram()
        self.line_latency = Histogram()
        self.journal_round = Histogram()
        self.begin_statement = Histogram()
        self.end_statement = Histogram()
        self.database_wait = Histogram()
        self.loop_lag = Histogram()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.request_duration: defaultdict[str, Histogram] = defaultdict(Histogram)
