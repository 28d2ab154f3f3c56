"""Logging: text and JSON formatters, and a filter that keeps conversations and secrets out of the log.

A record is a message and optional fields: ``log.info("reply ended", extra={"fields": {"status": ...}})``.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any

from tornado.log import LogFormatter
from tornado.options import Error

from errors import ChatterdError

TEXT_LIMIT = 256
"""Maximum length of a field in characters: clients choose paths and model names."""

QUOTABLE_ERRORS = (ChatterdError, OSError, AttributeError, ImportError, NameError, RuntimeError, TypeError)
"""Exceptions whose message comes from code or the operating system. Messages of other exceptions may quote data."""

QUOTABLE_SQLSTATES = ("08", "28", "3D", "42", "53", "55", "57", "58")
"""SQLSTATE classes whose primary message contains no data (PostgreSQL manual, appendix A). DETAIL may contain a row."""


def configure(style: str) -> None:
    """Set formatter and filter of the root logger's handlers, and log uncaught exceptions in the same format.

    :param style: ``text`` or ``json``.
    :raises tornado.options.Error: another style.
    """
    if style not in ("text", "json"):
        raise Error("--log-format must be text or json")
    for handler in logging.getLogger().handlers:
        text_formatter = TextFormatter(color=not isinstance(handler, logging.FileHandler))
        handler.setFormatter(JsonFormatter() if style == "json" else text_formatter)
        handler.addFilter(redact)
    sys.excepthook = _log_uncaught


def log_loop_error(loop: object, context: Mapping[str, Any]) -> None:
    """Log an exception that the event loop could not pass to any caller (an asyncio exception handler).

    asyncio's own handler would also log the values in ``context``. The message for a callback contains its arguments.
    """
    message = "Exception in a callback" if "handle" in context else context["message"]
    logging.getLogger("asyncio").error("%s", message, exc_info=context.get("exception"))


def describe(error: BaseException) -> str:
    """Describe an exception without data: its type, and its message or SQLSTATE and names of database objects."""
    name = type(error).__name__
    state = getattr(error, "sqlstate", None)
    if isinstance(error, QUOTABLE_ERRORS) or str(state)[:2] in QUOTABLE_SQLSTATES:
        message = str(error.args[0] if state and error.args else error)
        return f"{name}: {message}" if message else name
    attributes = (getattr(error, attribute, None) for attribute in ("table_name", "column_name", "constraint_name"))
    details = [detail for detail in (state, *attributes) if isinstance(detail, str)]
    return f"{name} ({', '.join(details)})" if details else name


def stack_trace(error: BaseException) -> str:
    """Format an exception and its causes, the first cause first, each as :func:`describe` describes it."""
    sections: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = traceback.format_tb(current.__traceback__)
        section = "".join(["Traceback (most recent call last):\n", *frames, describe(current)])
        if isinstance(current, BaseExceptionGroup):
            section += "".join(f"\n\nIn this group:\n\n{stack_trace(member)}" for member in current.exceptions)
        sections.append(section)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\nThis led to:\n\n".join(reversed(sections))


def redact(record: logging.LogRecord) -> bool:
    """Replace a record's arguments that may contain data (a filter of :mod:`logging`, for all loggers)."""
    is_own = record.name.startswith("chatterd")
    if isinstance(record.args, tuple) and record.args:
        record.args = tuple([_redact_value(value, is_own) for value in record.args])
    if record.name == "tornado.general" and record.levelno == logging.WARNING:
        record.levelno, record.levelname = logging.INFO, "INFO"  # caused by clients: a port scan, a reset connection
    return True


def _redact_value(value: object, is_own: bool) -> object:
    if isinstance(value, BaseException):
        return describe(value)
    if is_own or isinstance(value, str | int | float):
        return value
    # Tornado logs the context of a connection; see the documentation of HTTPServerRequest.remote_ip.
    remote_ip = getattr(value, "remote_ip", None)
    return remote_ip if isinstance(remote_ip, str) else f"<{type(value).__name__}>"


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, KeyboardInterrupt):
        logging.getLogger("chatterd").critical("chatterd ends: uncaught exception.", exc_info=(kind, error, trace))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: Mapping[str, object] | None = getattr(record, "fields", None)
    return {} if fields is None else {name: _truncate(value) for name, value in fields.items() if value is not None}


def _truncate(value: object) -> object:
    return value[:TEXT_LIMIT] if isinstance(value, str) else value


class TextFormatter(LogFormatter):
    """Tornado's format, followed by the fields as ``name=value``."""

    def __init__(self, color: bool) -> None:
        super().__init__(fmt=LogFormatter.DEFAULT_FORMAT + "%(pairs)s", color=color)

    def format(self, record: logging.LogRecord) -> str:
        """Format one record; a stack trace follows in lines of its own, indented (called by logging)."""
        record.pairs = "".join([f" {name}={_quote(value)}" for name, value in _fields(record).items() if value != ""])
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Format the local time with a resolution of one second (called by Tornado)."""
        return _local_time(int(record.created), datefmt or self.DEFAULT_DATE_FORMAT)

    def formatException(self, ei: Any) -> str:
        """Format the stack trace (called by Tornado)."""
        return stack_trace(ei[1])


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message`` and the fields.

    An exception adds ``error`` and ``trace``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format one record (called by logging)."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info and record.exc_info[1]:
            line |= {"error": describe(record.exc_info[1]), "trace": stack_trace(record.exc_info[1])}
        return _encode(line)


_encode = json.JSONEncoder(default=str).encode


def _quote(value: object) -> object:
    if isinstance(value, str) and (not value.isprintable() or " " in value or '"' in value or "=" in value):
        return _encode(value)
    return value


@lru_cache(maxsize=2)
def _local_time(second: int, layout: str) -> str:
    return time.strftime(layout, time.localtime(second))
