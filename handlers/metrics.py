"""``GET /metrics``: the metrics of this process for Prometheus."""

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from web.base import BaseHandler


class MetricsHandler(BaseHandler):
    """The metrics of the process that responds."""

    route = "/metrics"
    rate_limited = False
    access = Access.OPERATOR

    async def get(self) -> None:
        """Respond in OpenMetrics if the client accepts it, else in Prometheus's text format."""
        collector = self.services.prometheus
        await collector.refresh()
        # prometheus_client's choose_encoder() raises an error for a version in Accept that is no number.
        if accepts_openmetrics(self.request.headers.get("Accept", "")):
            self.set_header("Content-Type", openmetrics.CONTENT_TYPE_LATEST)
            self.finish(openmetrics.generate_latest(collector.registry))  # type: ignore[no-untyped-call]
        else:
            self.set_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
            self.finish(generate_latest(collector.registry))

    head = get

    def compute_etag(self) -> None:
        """Omit the tag: no two responses are equal (called by Tornado)."""


def accepts_openmetrics(accept: str) -> bool:
    """Return whether an ``Accept`` header names OpenMetrics, as Prometheus's does in the first place.

    >>> accepts_openmetrics("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4")
    True
    """
    return any(
        media_range.partition(";")[0].strip().lower() == "application/openmetrics-text"
        for media_range in accept.split(",")
    )


ROUTES = [Rule(PathMatches(r"/metrics/?"), MetricsHandler)]
