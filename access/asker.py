"""Who is asking: what every other file is told of a request's sender."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may do; None where the setting decides."""

    requests_per_minute: int | None = None
    replies_at_once: int | None = None
    prompt_characters: int | None = None


@dataclass(frozen=True, slots=True)
class Asker:
    """Whoever sent a request.

    :ivar tenant: whose conversations and replies exist for this request; empty where nobody has to say who they are.
    :ivar operator: whether figures of the whole server may be seen, too.
    :ivar name: what a person would call them; several askers may share a tenant.
    """

    tenant: str
    operator: bool = False
    limits: Limits = Limits()
    name: str = ""


NOBODY = Asker("")
"""Who asks before it is known."""

ANYBODY = Asker("", operator=True)
"""Who asks where ``--auth=none``: everybody is the same."""
