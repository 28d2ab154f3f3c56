"""Tells whether a response is Ollama's, and says in a sentence what it is otherwise: a page, a proxy, an API. Pure.

Written from the answers of nginx, Caddy, HAProxy and Traefik without a server behind them, of Cloudflare's error pages
(developers.cloudflare.com, "5xx errors"), and of login pages that answer with 200 or with a redirect.
"""

import html
import re
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

OK, UNREACHABLE, SILENT, FOREIGN, STAND_IN = "ok", "unreachable", "silent", "not ollama", "stand-in"
"""Names of states. ``STAND_IN``: Ollama has not answered yet, and the embedded model replies."""

MAX_TITLE = 100
"""Characters of a page's title that are quoted."""

MAX_EXAMINED = 65_536
"""Bytes of a body in which a title is searched."""

CHATTERD_NOT_FOUND = b"There is nothing at this address."
"""What chatterd answers to Ollama's paths (``handlers/not_found.py``)."""

CHATTERD = "The server at Ollama's address is chatterd, not Ollama. Set OLLAMA_HOST to the address of Ollama."

_ELEMENTS = (re.compile(r"<title\b", re.IGNORECASE), re.compile(r"<h1\b", re.IGNORECASE))


@dataclass(frozen=True, slots=True)
class OllamaState:
    """What was found at Ollama's address.

    :ivar name: one of the names above, or ``answered <status>``.
    :ivar problem: a sentence on what answers there instead of Ollama, without its address; empty if nothing answers.
    """

    name: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether Ollama answers."""
        return self.name == OK


class _Version(msgspec.Struct):
    version: str


class _Error(msgspec.Struct):
    error: object


_decode_version = msgspec.json.Decoder(_Version).decode
_decode_error = msgspec.json.Decoder(_Error).decode

_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def phrase(status: int) -> str:
    """Return a status with its reason phrase, if it has one (RFC 9110, section 15).

    >>> [phrase(502), phrase(521)]
    ['502 Bad Gateway', '521']
    """
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def is_page(body: bytes) -> bool:
    """Return whether a body, or a line, begins as HTML or XML does; no JSON does."""
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def describe_page(status: int, body: bytes) -> str:
    """Describe a page that was sent instead of an answer of Ollama by its title and its status."""
    title = page_title(body)
    page = f'a web page, "{title}"' if title else "a web page"
    if status == HTTPStatus.OK:
        return f"The server at Ollama's address is not Ollama: it answered with {page}."
    return f"The server at Ollama's address answered {phrase(status)} with {page}."


def is_chatterd(status: int, body: bytes) -> bool:
    """Return whether a response is how chatterd answers to a path of Ollama's API."""
    return status == HTTPStatus.NOT_FOUND and CHATTERD_NOT_FOUND in body


def describe_redirect(status: int) -> str:
    """Describe a redirect (RFC 9110, section 15.4): Ollama's API sends none, and none is followed."""
    return (
        f"The server at Ollama's address is not Ollama: it redirects to another address ({phrase(status)}), as a "
        "login page does, or a server that wants https."
    )


def is_redirect(status: int) -> bool:
    """Return whether a status is that of a redirect."""
    return 300 <= status < 400


def page_title(body: bytes) -> str:
    """Return the text of a page's title, or of its first heading; empty if it has neither."""
    text = body[:MAX_EXAMINED].decode(errors="replace")
    for element in _ELEMENTS:
        if (found := element.search(text)) is None or (start := text.find(">", found.end())) < 0:
            continue
        end = text.find("<", start)
        title = " ".join(html.unescape(text[start + 1 : end if end >= 0 else None]).split())
        if title := "".join(character for character in title if character.isprintable()):
            return title if len(title) <= MAX_TITLE else title[:MAX_TITLE] + " ..."
    return ""


def state_of(status: int, body: bytes) -> OllamaState:
    """Return what a response to ``GET /api/version`` says of the server (ollama ``server/routes.go``)."""
    if problem := _problem(status, body):
        return OllamaState(FOREIGN if status == HTTPStatus.OK else f"answered {status}", problem)
    try:
        _decode_version(body)
    except _NOT_JSON:
        return OllamaState(
            FOREIGN, "The server at Ollama's address is not Ollama: its answer is not one of Ollama's API."
        )
    return OllamaState(OK)


def models_problem(status: int, body: bytes) -> str:
    """Return why a response to ``GET /api/tags`` is a server's that is not Ollama; empty if it can be passed on.

    Only what is surely not Ollama's counts: a page, an error without the field ``error``, and a status 401, which is a
    proxy's, since Ollama's list needs no authentication.
    """
    if status == HTTPStatus.UNAUTHORIZED or is_chatterd(status, body) or is_page(body):
        return _problem(status, body)
    if status < HTTPStatus.BAD_REQUEST:
        return ""
    try:
        _decode_error(body)
    except _NOT_JSON:
        return _problem(status, body)
    return ""


def _problem(status: int, body: bytes) -> str:
    if is_redirect(status):
        return describe_redirect(status)
    if is_page(body):
        return describe_page(status, body)
    if is_chatterd(status, body):
        return CHATTERD
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            "The server at Ollama's address wants a user and a password (401 Unauthorized). Set them in OLLAMA_HOST: "
            "http://user:password@host."
        )
    if status != HTTPStatus.OK:
        return f"The server at Ollama's address answered {phrase(status)}."
    return ""
