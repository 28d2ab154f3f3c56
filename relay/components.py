"""The components that all generations of a process share."""

from dataclasses import dataclass

from db.batching import StatementBatcher
from db.pool import Database
from db.reply_begin import BeginResult, NewReply
from db.reply_end import FinishRequest, FinishResult
from relay.cluster.notifications import Notifier
from relay.generation.journal import Journal
from relay.memory_budget import MemoryBudget
from relay.metrics import Metrics
from relay.ollama.upstreams import Upstreams
from relay.window.planner import ContextPlanner
from settings import Settings


@dataclass(frozen=True, slots=True)
class RelayComponents:
    """The components that generate replies and store them; see :mod:`relay.factory`.

    :ivar outgoing: memory of the requests to Ollama that are not sent yet.
    """

    upstreams: Upstreams
    database: Database
    notifier: Notifier
    journal: Journal
    begin_batcher: StatementBatcher[NewReply, BeginResult]
    finish_batcher: StatementBatcher[FinishRequest, FinishResult]
    settings: Settings
    metrics: Metrics
    outgoing: MemoryBudget
    planner: ContextPlanner
