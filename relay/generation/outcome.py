"""How a reply or an attempt may end, and what the failures of Ollama mean for it."""

from dataclasses import dataclass

from errors import ChatterdError, UpstreamDisconnected, UpstreamUnreachable
from relay.ollama import chat_line, upstream_error
from relay.window.planner import ContextDoesNotFit
from settings import Settings

ACCEPTED = (500, 504)
"""Statuses after which Ollama has had the request, and after a proxy's timeout (504) may still work on it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reply ended.

    :param status: see ``replies.status`` in the database.
    :param error: error message for viewers; None if there was no error.
    :param last_line: line to show once the outcome is committed; None if viewers have seen the error already.
    :param with_message: whether the transcript is stored as the assistant's message.
    :param reason: cause of an error, for the log. It never quotes Ollama, whose messages may repeat the prompt.
    """

    status: str
    error: str | None
    last_line: bytes | None
    with_message: bool = True
    reason: str | None = None


def failure(status: str, error: str, reason: str | None = None) -> Outcome:
    """Return the outcome of a reply that ended with an error."""
    return Outcome(status, error, chat_line.error_line(error), reason=reason or error)


def context_failure(error: ContextDoesNotFit) -> Outcome:
    """Return the outcome of a reply whose conversation does not fit into the model's window."""
    return Outcome("failed", str(error), chat_line.error_line(str(error), error.code), reason=error.code)


def took_too_long(settings: Settings) -> Outcome:
    """Return the outcome of a reply that has reached its deadline."""
    return failure("truncated", f"The reply took longer than {settings.reply_timeout:g} seconds.")


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Why an attempt failed if another one may succeed: Ollama, its runner or the connection to it has died.

    :ivar outcome: how the reply ends if there is no other attempt.
    :ivar accepted: whether Ollama had accepted the request, which may be what it died of.
    """

    outcome: Outcome
    accepted: bool


@dataclass(frozen=True, slots=True)
class WindowExceeded:
    """The prompt does not fit into the model's window.

    :ivar outcome: how the reply ends if there is no other attempt.
    :ivar figures: tokens of the prompt and of the window, as Ollama counts them; None if it did not say.
    """

    outcome: Outcome
    figures: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Ollama refused the request, perhaps because of an image or another field of a message.

    :ivar outcome: how the reply ends if there is no other attempt.
    """

    outcome: Outcome


AttemptResult = Outcome | Breakdown | WindowExceeded | Refusal


def failed_response(status: int, body: bytes) -> Outcome | Breakdown | Refusal:
    """Return what an error response of Ollama means for a reply."""
    outcome = failure("failed", upstream_error.describe(status, body), f"Ollama answered {status}.")
    if upstream_error.may_refuse_a_message(status, body):
        return Refusal(outcome)
    if not upstream_error.is_retryable_status(status, body):
        return outcome
    return Breakdown(outcome, accepted=status in ACCEPTED)


def window_exceeded(status: int, body: bytes, begins: bool) -> WindowExceeded:
    """Return the result of an attempt whose prompt does not fit into the model's window.

    :param begins: whether nothing of the reply was shown.
    """
    message = upstream_error.describe(status, body)
    outcome = failure("failed" if begins else "interrupted", message, f"Ollama answered {status}.")
    return WindowExceeded(outcome, upstream_error.window_figures(body))


def failed_connection(error: ChatterdError) -> Outcome | Breakdown:
    """Return what a connection that was not made, or broke, means for a reply."""
    if isinstance(error, UpstreamUnreachable):
        outcome = failure("failed", str(error))
        return Breakdown(outcome, accepted=False) if error.retryable else outcome
    if isinstance(error, UpstreamDisconnected):
        return Breakdown(failure("truncated", str(error)), accepted=True)
    return failure("failed", str(error))
