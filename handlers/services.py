"""What the handlers call: the parts that ``server.py`` wired, and what counts across their requests."""

from dataclasses import dataclass, field

from access.identity import Identity
from access.limits import RequestLimits
from access.origins import Origins
from access.proxies import Proxies
from db.pool import Database
from handlers.bodies import Bodies
from handlers.outbox import Outbox
from handlers.turns import Turns
from relay.ollama import Ollama
from relay.replies import Replies
from relay.status import Status
from settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """The parts, one of each for all handlers."""

    settings: Settings
    database: Database
    ollama: Ollama
    replies: Replies
    status: Status
    identity: Identity | None
    origins: Origins
    outbox: Outbox = field(default_factory=Outbox)
    turns: Turns = field(default_factory=Turns)
    limits: RequestLimits = field(init=False)
    proxies: Proxies = field(init=False)
    bodies: Bodies = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", RequestLimits(self.settings))
        object.__setattr__(self, "proxies", Proxies(self.settings.trusted_proxies))
        object.__setattr__(self, "bodies", Bodies(self.settings.max_bodies_bytes))
