"""Exports the metrics of this process to Prometheus. Their values are read when Prometheus scrapes them."""

import platform
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from db.pool import Database
from relay.generation.registry import GenerationRegistry
from relay.metrics import Histogram, Metrics
from relay.reporting.health import OK, UNKNOWN, ComponentState, HealthMonitor
from relay.service import ReplyService
from settings import VERSION, Settings


class PrometheusCollector(Collector):
    """Collects the metrics for prometheus_client; it holds no values of its own.

    There are no labels for tenant, conversation or model: clients could create any number of series.

    :ivar registry: these metrics, and those of every Python process: memory, CPU, open files, garbage collector.
    """

    def __init__(
        self,
        metrics: Metrics,
        database: Database,
        settings: Settings,
        health: HealthMonitor,
        registry: GenerationRegistry,
        replies: ReplyService,
    ) -> None:
        self._metrics = metrics
        self._database = database
        self._settings = settings
        self._registry = registry
        self._replies = replies
        self._health = health
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(self)

    async def refresh(self) -> None:
        """Check the database and Ollama before metrics are collected; takes a few seconds at most."""
        await self._health.check_if_outdated()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics (called by the registry)."""
        yield from self._process()
        yield from _replies(self._metrics)
        yield _gauge("replies_running", "Replies that this process generates now.", len(self._registry))
        yield _gauge("replies_max", "Maximum of replies_running (--max-replies).", self._settings.max_replies)
        yield _counter("lines", "Lines of replies committed by this process.", self._registry.lines)
        yield from _viewers(self._metrics)
        yield from _requests(self._metrics)
        yield from self._components()
        yield from _database(self._metrics)

    def _process(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("chatterd_build_info", "Versions; always 1.", labels=["version", "python"])
        build.add_metric([VERSION, platform.python_version()], 1)
        yield build
        ready = self._replies.ready and self._health.database.name == OK
        yield _gauge("ready", "Whether this process accepts prompts, as in /readyz: 1 or 0.", ready)
        yield _gauge(
            "outgoing_bytes", "Bytes of requests to Ollama that are not sent yet.", self._replies.outgoing_bytes
        )
        yield _gauge("draining", "Whether this process is shutting down: 1 or 0.", self._replies.draining)
        yield _histogram("event_loop_lag_seconds", "Delay of the event loop's timers.", self._metrics.loop_lag)

    def _components(self) -> Iterator[Metric]:
        yield from _up("database_up", "Whether PostgreSQL responds: 1 or 0.", self._health.database)
        yield from _up("ollama_up", "Whether Ollama responds: 1 or 0.", self._health.ollama)
        lent, idle = self._database.connections
        yield _labelled(
            GaugeMetricFamily("chatterd_database_connections", "Connections of the pool.", labels=["state"]),
            {"lent": lent, "idle": idle},
        )
        yield _gauge("database_connections_max", "Size of the pool at most (--pool-size).", self._database.size)


def _replies(metrics: Metrics) -> Iterator[Metric]:
    yield _counter("replies_begun", "Replies begun by a prompt.", metrics.replies_begun)
    yield _counter("replies_adopted", "Replies adopted from dead processes.", metrics.replies_adopted)
    yield _counter("replies_continued", "Continuations of replies whose Ollama died.", metrics.replies_continued)
    yield _counter("replies_superseded", "Replies stopped for the next prompt.", metrics.replies_superseded)
    yield _gauge("prompts_waiting", "Prompts that wait for the end of another reply.", metrics.prompts_waiting)
    yield _counter("replies_handed_over", "Replies handed over to other processes.", metrics.replies_handed_over)
    yield _labelled(
        CounterMetricFamily("chatterd_replies_ended", "Replies that ended in this process.", labels=["status"]),
        metrics.replies_ended,
    )
    yield _histograms(
        "reply_duration_seconds",
        "From the prompt's arrival, or the reply's adoption, to the reply's end.",
        "status",
        metrics.reply_duration,
    )
    yield _histogram("first_event_seconds", "From a prompt's arrival to the first event.", metrics.first_event)
    yield _histogram(
        "line_latency_seconds",
        "From reading a line from Ollama to writing it to the viewers' sockets.",
        metrics.line_latency,
    )
    yield _labelled(
        CounterMetricFamily(
            "chatterd_tokens", "Tokens of replies that are done, as counted by Ollama.", labels=["kind"]
        ),
        {"prompt": metrics.prompt_tokens, "reply": metrics.reply_tokens},
    )


def _viewers(metrics: Metrics) -> Iterator[Metric]:
    yield _gauge("viewers", "Responses that show a reply now.", metrics.viewers)
    yield _counter(
        "viewers_dropped",
        "Viewers whose client did not read for too long, or whose reply could not be shown further.",
        metrics.viewers_dropped,
    )


def _requests(metrics: Metrics) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "chatterd_http_requests",
        "Finished requests; a stream is counted at its end. Requests rejected before routing have the route refused.",
        labels=["method", "route", "status"],
    )
    for (method, route, status), count in metrics.requests.items():
        requests.add_metric([method, route, str(status)], count)
    yield requests
    yield _histograms(
        "http_request_duration_seconds",
        "From a request's headers to the end of its response; without streams.",
        "route",
        metrics.request_duration,
    )


def _database(metrics: Metrics) -> Iterator[Metric]:
    for name, help, histogram in [
        ("database_wait_seconds", "Waiting time for a connection of the pool.", metrics.database_wait),
        ("journal_batch_seconds", "PostgreSQL's time to write a batch of lines.", metrics.journal_batch),
        ("begin_statement_seconds", "PostgreSQL's time for a statement that begins replies.", metrics.begin_statement),
        ("end_statement_seconds", "PostgreSQL's time for a statement that ends replies.", metrics.end_statement),
    ]:
        yield _histogram(name, help, histogram)


def _up(name: str, help: str, state: ComponentState) -> Iterator[Metric]:
    if state.name != UNKNOWN:
        yield _gauge(name, help, state.name == OK)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"chatterd_{name}", help, value=value)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"chatterd_{name}", help, value=float(value))


def _labelled(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def _histogram(name: str, help: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(f"chatterd_{name}", help, _buckets(histogram), histogram.sum)


def _histograms(name: str, help: str, label: str, histograms: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"chatterd_{name}", help, labels=[label])
    for value, histogram in histograms.items():
        family.add_metric([value], _buckets(histogram), histogram.sum)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the cumulated counts by upper bound, rounded: :meth:`Histogram.spread` adds fractions, but OpenMetrics
    requires integers (OpenMetrics 1.0, section "Histogram")."""
    bounds: Iterable[str] = [*map(str, histogram.bounds), "+Inf"]
    return [(bound, round(count)) for bound, count in zip(bounds, accumulate(histogram.counts), strict=True)]
