"""Judge the answers to attempts: each must be one that the document of the API describes. Without I/O."""

import collections
import functools
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import h11
import jsonschema_rs

from tests.hostile.answers import Answer, answers, complaint
from tests.hostile.grammar.attempts import DOCUMENT, Attempt, Call

TO_ANY_REQUEST = frozenset({400, 401, 403, 404, 405, 413, 414, 431})
"""Statuses of requests that the document does not describe: of other methods and paths, or with a body on a GET."""

SHOWN = 700
"""Bytes of a request that are shown."""


@dataclass
class Verdict:
    """The results of many attempts.

    :ivar wrong: what must not happen, in words, with the bytes that made it happen.
    :ivar left: connections whose client left before the answer.
    :ivar unanswered: connections with a malformed request that were closed without an answer.
    """

    requests: int = 0
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    left: int = 0
    unanswered: int = 0
    wrong: list[str] = field(default_factory=list)

    def judge(self, attempt: Attempt, data: bytes) -> None:
        """Judge all bytes that an attempt's connection received until the server closed it."""
        self.requests += len(attempt.calls)
        try:
            found = answers(data, [call.request.method for call in attempt.calls])
        except h11.RemoteProtocolError as error:
            self.complain(attempt, f"not HTTP: {error}: {data[:300]!r}")
            return
        self.statuses.update(answer.status for answer in found)
        for call, answer in zip(attempt.calls, found, strict=False):
            if what := complaint(answer) or undocumented(call, answer):
                self.complain(attempt, what)
        if len(found) > len(attempt.calls):
            self.complain(attempt, f"{len(found)} answers to {len(attempt.calls)} requests")
        if attempt.cut is not None:
            self.left += 1
        elif not found and any(call.is_malformed for call in attempt.calls):
            self.unanswered += 1  # Tornado closes the connection, whatever has not been read from it
        elif not found or not found[-1].whole:
            self.complain(attempt, f"the last answer is not complete: {data[-300:]!r}")
        elif len(found) < len(attempt.calls) and not _closes(found[-1]):
            self.complain(attempt, f"{len(found)} answers to {len(attempt.calls)} requests")

    def complain(self, attempt: Attempt, what: str) -> None:
        """Record that an attempt has gone wrong."""
        sent = b"\n    ".join(call.request.data[:SHOWN] for call in attempt.calls)
        sizes = [len(call.request.data) for call in attempt.calls]
        self.wrong.append(f"attempt {attempt.number}, server {attempt.server}: {what}\n    sent: {sent!r} {sizes}")


def _closes(answer: Answer) -> bool:
    return answer.headers.get(b"connection", b"").lower() == b"close" or answer == Answer(400, whole=True)


def undocumented(call: Call, answer: Answer) -> str | None:
    """Return what about an answer the document does not describe; None if it describes everything."""
    operation = DOCUMENT["paths"].get(call.path, {}).get(call.method.lower())
    if answer == Answer(400, whole=True):
        return None
    if not operation:
        allowed: set[int] = {*TO_ANY_REQUEST, *((204,) if call.method == "OPTIONS" else ())}
        return None if answer.status in allowed else f"{answer.status} to {call.method} {call.path}"
    responses = operation["responses"]
    if str(answer.status) not in responses and "default" not in responses:
        fits = answer.status in TO_ANY_REQUEST and (call.request.body and "requestBody" not in operation)
        return (
            None if fits else f"{answer.status} is not documented for {call.method} {call.path}: {answer.body[:200]!r}"
        )
    if b"x-ollama" in answer.headers or str(answer.status) not in responses or call.method == "HEAD":
        return None
    return _unlike(call.path, call.method.lower(), answer)


def _unlike(path: str | None, method: str, answer: Answer) -> str | None:
    """Return how an answer with content differs from its documented media type and schema."""
    contents = _resolved(DOCUMENT["paths"][path][method]["responses"][str(answer.status)]).get("content")
    media_type = answer.headers.get(b"content-type", b"").decode().partition(";")[0]
    if not contents:
        return f"content of {answer.status}: {answer.body[:200]!r}" if answer.body else None
    if media_type not in contents:
        return f"{media_type} is not documented for {answer.status} of {method} {path}"
    if media_type == "application/json" and answer.whole:
        validator = _validator(str(path), method, str(answer.status))
        try:
            is_compressed = answer.headers.get(b"content-encoding") == b"gzip"
            validator.validate(json.loads(gzip.decompress(answer.body) if is_compressed else answer.body))
        except (ValueError, jsonschema_rs.ValidationError) as error:
            return f"{answer.status} of {method} {path}: {str(error)[:300]}"
    return None


def _resolved(value: Any) -> Any:
    while "$ref" in value:
        parts: Sequence[str] = value["$ref"].removeprefix("#/").split("/")
        value = functools.reduce(lambda found, part: found[part], parts, DOCUMENT)
    return value


@functools.cache
def _validator(path: str, method: str, status: str) -> Any:
    response = _resolved(DOCUMENT["paths"][path][method]["responses"][status])
    schema = response["content"]["application/json"].get("schema", True)
    return jsonschema_rs.validator_for({"allOf": [schema], "components": DOCUMENT["components"]})
