"""The base of the embedded model's handlers: JSON bodies in and out, errors in Ollama's form."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
from tornado.web import RequestHandler

from embedded.llama import ApiError, Weights
from embedded.requests import AnyNamed
from embedded.scheduler import Scheduler
from embedded.smollm2 import NAMES, Record

JSON = "application/json; charset=utf-8"


def encode(record: Record) -> str:
    """Return a record as compact JSON, without a newline."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def now() -> str:
    """Return the time in Ollama's format: RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class ApiHandler(RequestHandler):
    """Base of the handlers with JSON bodies; errors are {"error": ...}."""

    error_type = JSON
    """Content-Type of an error."""

    def initialize(self, scheduler: Scheduler, weights: Weights) -> None:
        """Keep the arguments of the route."""
        self.scheduler = scheduler
        self.weights = weights

    def body(self, kind: type[AnyNamed]) -> AnyNamed:
        """Return the request's body.

        :raises ApiError: 400, it is not a `kind`; 404, it names another model.
        """
        if not self.request.body:
            raise ApiError(400, "missing request body")
        try:
            request = msgspec.json.decode(self.request.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(400, str(error)) from error
        request.model = request.model or request.name
        if not request.model:
            raise ApiError(400, "model is required")
        if request.model.lower() not in NAMES:
            raise ApiError(404, f"model '{self.missing_name(request.model)}' not found")
        return request

    def missing_name(self, name: str) -> str:
        """Return the name of an unknown model as an error tells it."""
        return name

    def answer(self, record: Record) -> None:
        """Finish with one JSON object."""
        self.set_header("Content-Type", JSON)
        self.finish(encode(record))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with an error in Ollama's form."""
        error = kwargs["exc_info"][1]
        if isinstance(error, ApiError):
            self.set_status(error.status)
        self.set_header("Content-Type", self.error_type)
        self.finish(encode({"error": str(error)}))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log an unexpected exception. An `ApiError` is an answer; the access log has it."""
        if not isinstance(value, ApiError):
            super().log_exception(typ, value, tb)
