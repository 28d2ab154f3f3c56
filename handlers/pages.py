"""GET /: the chat page and its files, from ``static/``."""

from pathlib import Path

from tornado.routing import PathMatches, Rule
from tornado.web import StaticFileHandler

from handlers.base import BaseHandler

STATIC = Path(__file__).parent.parent / "static"

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)


class PageHandler(BaseHandler, StaticFileHandler):
    """A file that a browser shows, revalidated at each use."""

    def initialize(self) -> None:  # type: ignore[override]
        """Find the files (called by Tornado)."""
        BaseHandler.initialize(self)
        StaticFileHandler.initialize(self, str(STATIC), default_filename="index.html")

    def set_extra_headers(self, path: str) -> None:
        """Allow a page only what comes from here (called by Tornado)."""
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-cache")


ROUTES = [
    Rule(PathMatches(r"/()"), PageHandler),
    Rule(PathMatches(r"/static/(.+)"), PageHandler),
]
