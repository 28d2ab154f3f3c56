"""GET /metrics: what this process counts and times, as text for Prometheus."""

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from handlers.base import BaseHandler


class MetricsHandler(BaseHandler):
    """The metrics of the process that answers."""

    route = "/metrics"
    counted = False
    needs = Access.OPERATOR

    async def get(self) -> None:
        """Answer in OpenMetrics if the client takes that, else in Prometheus's older format, which all read."""
        metrics = self.services.prometheus
        await metrics.refresh()
        # prometheus_client's own choose_encoder() fails at a version in Accept that is no number.
        if takes_openmetrics(self.request.headers.get("Accept", "")):
            self.set_header("Content-Type", openmetrics.CONTENT_TYPE_LATEST)
            self.finish(openmetrics.generate_latest(metrics.registry))  # type: ignore[no-untyped-call]
        else:
            self.set_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
            self.finish(generate_latest(metrics.registry))

    def compute_etag(self) -> None:
        """No tag: no two answers are the same (called by Tornado)."""


def takes_openmetrics(accepted: str) -> bool:
    """Whether a client with this ``Accept`` names OpenMetrics, as Prometheus does before all else.

    >>> takes_openmetrics("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4")
    True
    """
    return any(one.partition(";")[0].strip().lower() == "application/openmetrics-text" for one in accepted.split(","))


ROUTES = [Rule(PathMatches(r"/metrics/?"), MetricsHandler)]
