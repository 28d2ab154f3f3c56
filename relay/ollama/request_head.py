"""Format the head of an HTTP/1.1 request (RFC 9112, section 3). Pure: text in, bytes out."""

import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import SplitResult

from tornado.httputil import HTTPHeaders

CLIENT_FIELDS = {"Host", "Connection", "Content-Length", "Transfer-Encoding"}
"""Headers that this client sets itself; the caller's values are ignored."""

_REQUEST_LINE = re.compile(r"[A-Z]+ [!-~]+ HTTP/1\.1")
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~\x80-\xff]*")


def request_head(method: str, url: SplitResult, headers: HTTPHeaders, length: int | None) -> bytes:
    """Format the head of a request whose connection is closed after the response.

    :param url: its user and password are not sent.
    :param length: length of the body in bytes; None if there is no body.
    :raises ValueError: the method, the target or a header contains characters that HTTP does not allow there.
    """
    fields = [f"{name}: {value}" for name, value in headers.get_all() if name not in CLIENT_FIELDS]
    if length is not None:
        fields.append(f"Content-Length: {length}")
    _check(fields)
    return "\r\n".join([*_constant_lines(method, url), *fields, "", ""]).encode("latin1")


@lru_cache(maxsize=16)
def _constant_lines(method: str, url: SplitResult) -> list[str]:
    """Format the lines that are the same for all requests with this method to this URL."""
    request_line = f"{method} {url.path or '/'}{'?' if url.query else ''}{url.query} HTTP/1.1"
    if not _REQUEST_LINE.fullmatch(request_line):
        raise ValueError(f"invalid request line: {request_line!r}")
    fields = [f"Host: {_host(url)}", "Connection: close"]
    _check(fields)
    return [request_line, *fields]


def _check(fields: Iterable[str]) -> None:
    for field in fields:
        if not _FIELD.fullmatch(field):
            raise ValueError(f"invalid header: {field!r}")


def _host(url: SplitResult) -> str:
    """Format the Host header without an IPv6 zone, which is only valid on this machine (RFC 6874, section 1)."""
    name = (url.hostname or "").partition("%")[0]
    host = f"[{name}]" if ":" in name else name.encode("idna").decode()
    return host if url.port is None else f"{host}:{url.port}"
