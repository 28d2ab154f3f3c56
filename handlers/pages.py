"""The pages and the files that they are made of, from ``static/``."""

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
        "require-trusted-types-for 'script'",  # text becomes HTML only by way of
        "trusted-types dompurify",  # what DOMPurify lets through
    ]
)


class FileHandler(BaseHandler):
    """A file that a browser shows, compressed where it may be, revalidated at each use."""

    route = "/static/{file}"
    rate_limited = False
    access = Access.PUBLIC

    def initialize(self, name: str = "") -> None:
        """Take the name of a page's file (called by Tornado)."""
        super().initialize()
        self._name = name
        self._etag: str | None = None

    def get(self, name: str = "") -> None:
        """Answer with the file, or 304 if the client has it."""
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

    def compute_etag(self) -> str | None:
        """The tag of what is answered; ``finish`` compares it with the client's (called by Tornado)."""
        return self._etag

    def _encoded(self, file: StaticFile) -> bytes:
        """The file in the encoding that the client takes; each encoding has a tag of its own (RFC 9110, 8.8.3.3)."""
        self._etag = f'"{file.etag}"'
        if file.gzipped is None:
            return file.body
        self.add_header("Vary", "Accept-Encoding")
        if not takes_gzip(self.request.headers.get("Accept-Encoding", "")):
            return file.body
        self._etag = f'"{file.etag}-gzip"'
        self.set_header("Content-Encoding", "gzip")
        return file.gzipped


def takes_gzip(accepted: str) -> bool:
    """Whether a client with this ``Accept-Encoding`` takes gzip (RFC 9110, section 12.5.3)."""
    weights = {}
    for one in accepted.lower().split(","):
        coding, _, weight = one.partition(";")
        weights[coding.strip()] = not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight)
    return weights.get("gzip", weights.get("*", False))


def page(path: str, file: str) -> Rule:
    """The route of a page that is kept in ``file``; a slash at its end is allowed."""
    return Rule(PathMatches(re.escape(path.rstrip("/")) + "/?"), FileHandler, {"name": file})


ROUTES = [
    page("/", "index.html"),
    page("/docs", "docs.html"),
    Rule(PathMatches(r"/static/(.+)"), FileHandler),
]
