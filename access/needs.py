"""What a route needs its asker to be."""

from enum import Enum, auto


class Need(Enum):
    """Who may call a route. Each handler of the API says it; there is no default."""

    ANYONE = auto()
    """Nobody has to say who they are: pages, probes of balancers, signing in."""

    ASKER = auto()
    """Somebody with a tenant, of whose conversations and replies the answer is."""

    OPERATOR = auto()
    """Who may see figures of the whole server."""
