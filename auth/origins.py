"""Which web pages may send a request: the server's own, and those of the origins that ``--cors-origins`` names."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from tornado.options import Error

DEFAULT_PORTS = {"http": 80, "https": 443}


class AllowedOrigins:
    """The origins of other sites whose pages may use the API (WHATWG Fetch, "CORS protocol").

    :param names: as a browser writes them: scheme, host, and a port that is not the scheme's own.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = frozenset(names)

    def __bool__(self) -> bool:
        return bool(self._names)

    def __contains__(self, origin: object) -> bool:
        return origin in self._names

    def allow(self, origin: str | None, site: str | None, host: str, secure: bool) -> bool:
        """Whether a request that changes something may come from where it says that it comes from.

        A page cannot set any of these headers. Who is no browser may send none of them, and needs none to do harm.
        TLS may have ended at a balancer, so that only the host can be compared; but no request comes over plain HTTP
        to a server that speaks TLS itself. ``X-Forwarded-Host`` does not count: a balancer may pass on anybody's.

        :param origin: the header ``Origin``: browsers send it with each request that is not GET or HEAD.
        :param site: the header ``Sec-Fetch-Site``.
        :param host: the header ``Host``.
        :param secure: whether this server ended TLS.
        """
        if origin is None:
            return site not in ("cross-site", "same-site")
        if origin in self._names:
            return True
        scheme, separator, authority = origin.lower().partition("://")
        if not separator or scheme not in DEFAULT_PORTS or (secure and scheme != "https"):
            return False
        return authority == host.lower().removesuffix(f":{DEFAULT_PORTS[scheme]}")


def parse_origins(text: str) -> AllowedOrigins:
    """Read ``--cors-origins``: origins with commas between them, of sites or of apps (``capacitor://localhost``).

    :raises Error: one of them is no origin.
    """
    return AllowedOrigins([_origin(one.strip()) for one in text.split(",") if one.strip()])


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text.lower())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    rest = parts.path or parts.query or parts.fragment or parts.username or "*" in text
    if not parts.scheme or not parts.hostname or rest:
        raise Error(f"--cors-origins names origins such as https://chat.example.org, with commas between, not {text!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port and port != DEFAULT_PORTS.get(parts.scheme) else "")
