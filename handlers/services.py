"""What the handlers call: the parts that ``server.py`` wired, and what counts across their requests."""

from dataclasses import dataclass, field

from auth.forwarded import TrustedProxies
from auth.identity_provider import IdentityProvider
from auth.origins import AllowedOrigins
from auth.rate_limit import RequestLimiter
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
    identity: IdentityProvider | None
    origins: AllowedOrigins
    outbox: Outbox = field(default_factory=Outbox)
    turns: Turns = field(default_factory=Turns)
    limits: RequestLimiter = field(init=False)
    proxies: TrustedProxies = field(init=False)
    bodies: Bodies = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", RequestLimiter(self.settings))
        object.__setattr__(self, "proxies", TrustedProxies(self.settings.trusted_proxies))
        object.__setattr__(self, "bodies", Bodies(self.settings.max_total_body_bytes))
