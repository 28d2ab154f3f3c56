"""The web pages that may send requests: the server's own pages, and those of ``--cors-origins``."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from tornado.options import Error

DEFAULT_PORTS = {"http": 80, "https": 443}


class AllowedOrigins:
    """The origins whose pages may use the API (WHATWG Fetch, "CORS protocol").

    :param names: origins as serialised by browsers: scheme, host, and the port unless it is the scheme's default.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = frozenset(names)

    def __bool__(self) -> bool:
        return bool(self._names)

    def __contains__(self, origin: object) -> bool:
        return origin in self._names

    def allow(self, origin: str | None, site: str | None, host: str, secure: bool) -> bool:
        """Return whether to accept a request that is not safe (RFC 9110, section 9.2.1).

        This is a protection against cross-site request forgery: pages cannot set these headers, and other clients
        need not send them. A proxy may terminate TLS, so schemes are compared only if this server terminates it.
        ``X-Forwarded-Host`` is ignored, because proxies may pass it on from clients.

        :param origin: header ``Origin``; browsers send it with all requests except GET and HEAD.
        :param site: header ``Sec-Fetch-Site``.
        :param host: header ``Host``.
        :param secure: whether this server terminated TLS.
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
    """Parse ``--cors-origins``: comma-separated origins of sites or of apps (``capacitor://localhost``).

    :raises tornado.options.Error: an item is not an origin.
    """
    return AllowedOrigins([_origin(item.strip()) for item in text.split(",") if item.strip()])


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text.lower())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    rest = parts.path or parts.query or parts.fragment or parts.username or "*" in text
    if not parts.scheme or not parts.hostname or rest:
        raise Error(f"--cors-origins must be comma-separated origins such as https://chat.example.org, not {text!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port and port != DEFAULT_PORTS.get(parts.scheme) else "")
