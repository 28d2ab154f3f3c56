"""The pages, and the static files in ``static/``."""

import re
from pathlib import Path

from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import NotFound
from web.base import BaseHandler
from web.static_files import StaticFile, StaticFiles

FILES = StaticFiles(Path(__file__).parent.parent / "static")

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # HTML is only created from
        "trusted-types dompurify markdown-worker",  # the output of DOMPurify; and workers only from one URL
    ]
)


class FileHandler(BaseHandler):
    """Serves a static file, compressed if the client accepts it, and revalidated with its entity tag."""

    route = "/static/{file}"
    rate_limited = False
    access = Access.PUBLIC

    def initialize(self, name: str = "", path: str = "") -> None:
        """Set up the handler (called by Tornado).

        :param name: the file of a page; empty if the path names it.
        :param path: the page's own path, in which its relative URLs are resolved; empty if the file has none.
        """
        super().initialize()
        self._name = name
        self._path = path
        self._etag: str | None = None

    def get(self, name: str = "") -> None:
        """Respond with the file, with 304 if the client has the current version, or with 308 to the page's own path.

        :raises NotFound: there is no such file.
        """
        if self._path not in ("", self.request.path):
            self._redirect()
            return
        file = FILES.find(self._name or name)
        if file is None:
            raise NotFound("There is nothing at this address.")
        self.set_header("Content-Type", file.content_type)
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish(self._encoded(file))

    head = get

    def _redirect(self) -> None:
        """Redirect from a page's path with a slash at its end, or from ``--base-path`` without one (empty here).

        A relative reference leads to the right place whatever a proxy puts in front of the path.
        """
        location = f"..{self._path}" if self.request.path else self._path
        self.set_status(308)
        self.set_header("Location", f"{location}?{self.request.query}" if self.request.query else location)
        self.finish()

    def compute_etag(self) -> str | None:
        """Return the entity tag of the response; ``finish`` compares it with ``If-None-Match`` (called by Tornado)."""
        return self._etag

    def _encoded(self, file: StaticFile) -> bytes:
        """Return the file in an encoding that the client accepts, and set its entity tag.

        Each encoding has its own tag (RFC 9110, section 8.8.3.3).
        """
        self._etag = f'"{file.etag}"'
        if file.gzipped is None:
            return file.body
        self.add_header("Vary", "Accept-Encoding")
        if not accepts_gzip(self.request.headers.get("Accept-Encoding", "")):
            return file.body
        self._etag = f'"{file.etag}-gzip"'
        self.set_header("Content-Encoding", "gzip")
        return file.gzipped


def accepts_gzip(accepted: str) -> bool:
    """Return whether an ``Accept-Encoding`` header accepts gzip (RFC 9110, section 12.5.3)."""
    weights = {}
    for one in accepted.lower().split(","):
        coding, _, weight = one.partition(";")
        weights[coding.strip()] = not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight)
    return weights.get("gzip", weights.get("*", False))


def page(path: str, file: str) -> Rule:
    """Return the route of a page. With a slash at its end it redirects.

    :param file: the page's file, relative to ``static/``.
    """
    return Rule(PathMatches(re.escape(path.rstrip("/")) + "/?"), FileHandler, {"name": file, "path": path})


ROUTES = [
    page("/", "index.html"),
    page("/docs", "docs.html"),
    Rule(PathMatches(r"/static/(.+)"), FileHandler),
]
