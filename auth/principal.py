"""The authenticated sender of a request, its tenant and its limits, and the access levels of routes."""

from dataclasses import dataclass
from enum import Enum, auto


class Access(Enum):
    """The access level of a route. Each handler declares its level; there is no default."""

    PUBLIC = auto()
    """No authentication: pages, balancers' probes, sign-in."""

    AUTHENTICATED = auto()
    """A principal with a tenant; the response is limited to that tenant's conversations and replies."""

    OPERATOR = auto()
    """A principal that may see the metrics and status of the whole server."""


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Limits of one tenant; None means the value of the corresponding setting."""

    requests_per_minute: int | None = None
    max_replies: int | None = None
    max_prompt_characters: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """The sender of a request.

    :ivar tenant: selects the conversations and replies that exist for this request; empty without authentication.
    :ivar operator: whether the principal may see the metrics and status of the whole server.
    :ivar name: display name; several principals may share a tenant.
    """

    tenant: str
    operator: bool = False
    limits: TenantLimits = TenantLimits()
    name: str = ""


UNAUTHENTICATED = Principal("")
"""The principal of a request before authentication."""

ANONYMOUS_OPERATOR = Principal("", operator=True)
"""The principal of every request with ``--auth=none``."""
