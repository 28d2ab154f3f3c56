"""Check that answers are valid HTTP, and that they meet what every answer of chatterd must meet. Without I/O."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import h11

INTERNAL = re.compile(r"Traceback|File \"|asyncpg|tornado|SELECT|INSERT|/work|\.py\b", re.IGNORECASE)
"""Matches text that no error message may contain."""

START = b"HTTP/1.1 "


@dataclass
class Answer:
    """A final answer, not an interim one."""

    status: int
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False


def answers(data: bytes, methods: Sequence[bytes]) -> list[Answer]:
    """Parse all bytes of a connection into answers.

    :param methods: of the requests, as far as they are known; all others are taken for GET.
    :raises h11.RemoteProtocolError: it is not HTTP/1.1.
    """
    found: list[Answer] = []
    while data:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=100_000)
        method = methods[len(found)] if len(found) < len(methods) else b"GET"
        connection.send(h11.Request(method="HEAD" if method == b"HEAD" else "GET", target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(data)
        answer = _next(connection)
        if answer is None:
            if data[: len(START)] != START[: len(data)]:
                raise h11.RemoteProtocolError(f"no beginning of an answer: {data[:100]!r}")
            break
        found.append(answer)
        data = connection.trailing_data[0] if answer.whole else b""
    return found


def _next(connection: h11.Connection) -> Answer | None:
    answer: Answer | None = None
    ended = False
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if ended or answer is None or not _ends_with_the_connection(answer):
                return answer
            connection.receive_data(b"")
            ended = True
        elif isinstance(event, h11.Response):
            answer = Answer(event.status_code, dict(event.headers))
        elif isinstance(event, h11.Data) and answer:
            answer.body += event.data
        elif isinstance(event, h11.EndOfMessage) and answer:
            answer.whole = True
            return answer
        elif not isinstance(event, h11.InformationalResponse):
            return answer


def _ends_with_the_connection(answer: Answer) -> bool:
    return not {b"content-length", b"transfer-encoding"} & answer.headers.keys()


def complaint(answer: Answer) -> str | None:
    """Return what is wrong with an answer; None if nothing is."""
    if answer.status >= 500:
        return f"{answer.status}: {answer.body[:200]!r}"
    if answer.status < 400 or not answer.whole or b"x-ollama" in answer.headers:
        return None
    if answer == Answer(400, whole=True):  # Tornado's own, for what is not HTTP
        return None
    if answer.headers.get(b"content-type") != b"application/json; charset=utf-8":
        return f"{answer.status} is not JSON: {answer.headers}"
    if answer.body:  # otherwise the request was a HEAD
        [(name, sentence)] = json.loads(answer.body).items()
        if name != "error" or not re.fullmatch(r"\S.*\.", sentence) or INTERNAL.search(sentence):
            return f"{answer.status} says no sentence: {answer.body[:200]!r}"
    return None
