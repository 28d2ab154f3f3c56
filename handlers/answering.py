"""How a request is answered: with JSON, with a stream, or with an error's one clear sentence as JSON."""

import http.client
from typing import Any, cast

import msgspec
from tornado.http1connection import HTTP1Connection
from tornado.web import RequestHandler

from errors import ChatterdError
from handlers import cors
from handlers.observed import ObservedHandler, log_request


class AnsweringHandler(ObservedHandler):
    """A handler with these ways to answer. Errors raised in it become JSON."""

    def set_default_headers(self) -> None:
        """Name the request in every answer, errors included, and let no cache keep it."""
        self.set_header("X-Request-ID", self.request_id)
        self.set_header("Server", "chatterd")
        self.set_header("Cache-Control", "no-store")
        if origins := self.settings["services"].origins:  # called before ``initialize``
            cors.set_headers(self, origins)

    def write_json(self, value: object, status: int = 200) -> None:
        """Answer with JSON and end the request."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(msgspec.json.encode(value))

    def start_stream(self, content_type: str) -> None:
        """Set what an answer needs that is read while it is written: nothing on the way may keep or collect it."""
        self.streams = True
        self.set_header("Content-Type", content_type)
        self.set_header("X-Accel-Buffering", "no")  # nginx
        connection = cast(HTTP1Connection, self.request.connection)
        # Nagle's algorithm (RFC 896) would hold each small event back until the last one is acknowledged: 40 ms.
        # Tornado turns it on again at the end of a request.
        connection.stream.set_nodelay(True)
        if self.request.version == "HTTP/1.0":
            # No chunk tells where such an answer ends, only the connection's end does, also for a client that asked to
            # keep it. Tornado would keep it (HTTP1Connection.write_headers).
            self.request.headers.pop("Connection", None)
            connection._disconnect_on_finish = True

    def break_off(self, why: str) -> None:
        """Close the connection without the end that would make the answer look whole.

        :param why: for the log.
        """
        self.log_fields["end"] = why
        log_request(self)
        self.detach().close()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with ``{"error": "<one clear sentence>"}`` (called by Tornado)."""
        if not self.request._body_future.done():
            self.set_header("Connection", "close")  # as Tornado will, when it answers before it has read all
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, ChatterdError):
            for name, value in error.headers.items():
                self.set_header(name, value)
            self.write_json({"error": str(error)}, error.status)
            return
        if status_code == 405:
            self.set_header("Allow", ", ".join(self.allowed_methods()))
        self.write_json({"error": self._sentence(status_code)}, status_code)

    def _sentence(self, status_code: int) -> str:
        if status_code == 405:
            return f"{self.request.method} is not possible here; use {' or '.join(self.allowed_methods())}."
        if status_code >= 500:
            return f"Something went wrong in the server. Its log has it under {self.request_id}."
        return f"{http.client.responses.get(status_code, 'Error')}."

    def allowed_methods(self) -> list[str]:
        """The methods that the handler has."""
        missing = RequestHandler._unimplemented_method
        return [name for name in self.SUPPORTED_METHODS if getattr(type(self), name.lower()) is not missing]
