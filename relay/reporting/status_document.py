"""The JSON documents of /status/events: the samples, and the state of the process sent with the newest one."""

from dataclasses import asdict
from time import monotonic
from typing import Any

import msgspec

from db.processes import Process
from relay.cluster.lease import ProcessLease
from relay.generation.registry import GenerationRegistry
from relay.metrics import Metrics
from relay.reporting.health import ComponentState, HealthMonitor
from relay.reporting.problems import ProcessCondition, find_problems
from relay.reporting.snapshot import Measurements
from relay.service import ReplyService
from settings import Settings


class StatusDocument:
    """Describes the present state of this process."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        health: HealthMonitor,
        lease: ProcessLease,
        registry: GenerationRegistry,
        replies: ReplyService,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._lease = lease
        self._registry = registry
        self._replies = replies
        self._started = monotonic()

    def build(
        self, sample: dict[str, Any], interval: float, last_minute: Measurements, all: Measurements, loop_lag: float
    ) -> bytes:
        """Build the document.

        :param sample: the newest sample.
        :param interval: seconds between two samples.
        :param last_minute: measurements of the last minute.
        :param all: measurements of the whole time for which samples are kept.
        :param loop_lag: maximum lag of the event loop in the last seconds.
        """
        now, metrics, health = monotonic(), self._metrics, self._health
        problems = find_problems(self._condition(now, last_minute, loop_lag))
        return msgspec.json.encode(
            {
                "sample": sample,
                "process": short_id(self._lease.owner),
                "uptime": round(now - self._started, 1),
                "interval": interval,
                "last_minute": last_minute,
                "all": all,
                "totals": {
                    "lines": self._registry.lines,
                    "begun": metrics.replies_begun,
                    "adopted": metrics.replies_adopted,
                    "continued": metrics.replies_continued,
                    "handed_over": metrics.replies_handed_over,
                    "ended": metrics.replies_ended,
                    "viewers_dropped": metrics.viewers_dropped,
                },
                "database": _describe_component(health.database, now),
                "ollama": _describe_component(health.ollama, now),
                "processes": health.processes and [_describe_process(process) for process in health.processes],
                "problems": [asdict(problem) for problem in problems],
            }
        )

    def _condition(self, now: float, last_minute: Measurements, loop_lag: float) -> ProcessCondition:
        health = self._health
        return ProcessCondition(
            draining=self._replies.draining,
            streaming=len(self._registry),
            max_replies=self._settings.max_replies,
            database=health.database.name,
            database_seconds=now - health.database.since,
            database_reason=health.database.reason,
            ollama=health.ollama.name,
            ollama_seconds=now - health.ollama.since,
            ollama_problem=health.ollama.problem,
            loop_lag=loop_lag,
            last_minute=last_minute,
        )


def _describe_component(state: ComponentState, now: float) -> dict[str, Any]:
    return {"state": state.name, "seconds": round(now - state.since, 1), "response_time": state.response_time}


def _describe_process(process: Process) -> dict[str, Any]:
    id = None if process.owner is None else short_id(process.owner)
    return {"id": id, "age": process.age, "replies": process.replies}


def short_id(owner: int) -> str:
    """Return the first digits of a process id, enough to tell processes apart."""
    return f"{owner:016x}"[:6]
