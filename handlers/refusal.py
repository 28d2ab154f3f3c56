"""What a client is told when there is no request yet that a handler could answer: the bytes of a whole answer."""

import http.client
import random
import re

import msgspec

from errors import ChatterdError

GIVEN_ID = re.compile(rb"^x-request-id:[ \t]*([\w.:/+=-]{1,128})[ \t]*\r?$", re.ASCII | re.IGNORECASE | re.MULTILINE)


def request_id(head: bytes) -> str:
    """The ``X-Request-ID`` of a request's head, whole or not, or one made here."""
    given = GIVEN_ID.search(head)
    return given[1].decode() if given else f"{random.getrandbits(128):032x}"


def answer(error: ChatterdError, id: str, with_body: bool = True) -> bytes:
    """An answer with ``{"error": "<one clear sentence>"}``, after which the connection is closed.

    :param id: the request's.
    :param with_body: False if HEAD was asked.
    """
    body = msgspec.json.encode({"error": str(error)})
    lines = [
        f"HTTP/1.1 {error.status} {http.client.responses[error.status]}",
        "Server: chatterd",
        f"X-Request-ID: {id}",
        "Cache-Control: no-store",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in error.headers.items()),
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + (body if with_body else b"")
