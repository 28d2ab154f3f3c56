"""How a log line looks, for people or as JSON, and what must not get into one: what is said in conversations.

A line is a message and, where there are some, fields: ``log.info("reply ended", extra={"fields": {"status": ...}})``.
"""

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any

from tornado.httpserver import _HTTPRequestContext
from tornado.log import LogFormatter
from tornado.options import Error

from errors import ChatterdError

TEXT_LIMIT = 256
"""Characters of a field: paths and the names of models are whatever a client says."""

QUOTABLE_ERRORS = (ChatterdError, OSError, AttributeError, ImportError, NameError, RuntimeError, TypeError)
"""Exceptions whose words come from code or from the system. The words of others may quote what they could not take."""

QUOTABLE_SQLSTATES = ("08", "28", "3D", "42", "53", "55", "57", "58")
"""Classes of PostgreSQL's errors whose message holds no values (its manual, appendix A); a DETAIL may hold a row."""


def set_up(style: str) -> None:
    """Give every line of the root logger's handlers this style, and tell of what nobody caught likewise.

    :param style: ``text`` or ``json``.
    :raises tornado.options.Error: another style.
    """
    # What no line shows need not be found out for each (logging's HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if style not in ("text", "json"):
        raise Error("--log-format must be text or json")
    if style == "json":
        logging._srcfile = None  # the place in the code
    for handler in logging.getLogger().handlers:
        to_people = TextFormatter(color=not isinstance(handler, logging.FileHandler))
        handler.setFormatter(JsonFormatter() if style == "json" else to_people)
        handler.addFilter(redact)
    sys.excepthook = _log_uncaught


def log_loop_error(loop: object, context: Mapping[str, Any]) -> None:
    """Log what nobody caught in the event loop, without the values that asyncio would show with it."""
    message = re.sub(r"(?s) in callback .*", " in a callback", context["message"])
    logging.getLogger("asyncio").error("%s", message, exc_info=context.get("exception"))


def describe(error: BaseException) -> str:
    """Say what went wrong, without quoting anybody."""
    name = type(error).__name__
    state = getattr(error, "sqlstate", None)
    if isinstance(error, QUOTABLE_ERRORS) or str(state)[:2] in QUOTABLE_SQLSTATES:
        words = str(error.args[0] if state and error.args else error)
        return f"{name}: {words}" if words else name
    facts = [state, *(getattr(error, what, None) for what in ("table_name", "column_name", "constraint_name"))]
    return f"{name} ({', '.join(facts)})" if (facts := [fact for fact in facts if isinstance(fact, str)]) else name


def stack_trace(error: BaseException) -> str:
    """Tell where it went wrong, and what led to it, the first cause first; exceptions speak as in :func:`described`."""
    pieces: list[str] = []
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        pieces.append("".join(["Traceback (most recent call last):\n", *traceback.format_tb(one.__traceback__)]))
        pieces[-1] += describe(one)
        if isinstance(one, BaseExceptionGroup):
            pieces[-1] += "".join(f"\n\nIn this group:\n\n{stack_trace(member)}" for member in one.exceptions)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\n\nThis led to:\n\n".join(reversed(pieces))


def redact(record: logging.LogRecord) -> bool:
    """Take out of a record's values what could quote anybody, whoever logs it (a filter of :mod:`logging`)."""
    ours = record.name.startswith("chatterd")
    if isinstance(record.args, tuple) and record.args:
        record.args = tuple([_redacted(value, ours) for value in record.args])
    if record.name == "tornado.general" and record.levelno == logging.WARNING:
        record.levelno, record.levelname = logging.INFO, "INFO"  # it warns of what peers do: a port scan, a reset
    return True


def _redacted(value: object, ours: bool) -> object:
    if isinstance(value, BaseException):
        return describe(value)
    if isinstance(value, _HTTPRequestContext):
        return str(value)  # the address
    return value if ours or isinstance(value, str | int | float) else f"<{type(value).__name__}>"


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        return
    logging.getLogger("chatterd").critical("chatterd cannot go on.", exc_info=(kind, error, trace))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: Mapping[str, object] | None = getattr(record, "fields", None)
    return {} if fields is None else {name: _truncate(value) for name, value in fields.items() if value is not None}


def _truncate(value: object) -> object:
    return value[:TEXT_LIMIT] if isinstance(value, str) else value


class TextFormatter(LogFormatter):
    """Lines for people: Tornado's, followed by the fields as ``name=value``."""

    def __init__(self, color: bool) -> None:
        super().__init__(fmt=LogFormatter.DEFAULT_FORMAT + "%(pairs)s", color=color)

    def format(self, record: logging.LogRecord) -> str:
        """Make the line; a stack trace follows in lines of its own, indented (called by logging)."""
        record.pairs = "".join([f" {name}={_quote(value)}" for name, value in _fields(record).items() if value != ""])
        return super().format(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The local time, in seconds (called by Tornado)."""
        return _local_time(int(record.created), datefmt or self.DEFAULT_DATE_FORMAT)

    def formatException(self, ei: Any) -> str:
        """The stack trace (called by Tornado)."""
        return stack_trace(ei[1])


class JsonFormatter(logging.Formatter):
    """Lines for machines: each a JSON object with ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message`` and the
    fields; an exception is ``error`` and ``trace``."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line (called by logging)."""
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
