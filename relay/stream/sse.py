"""Formats lines as server-sent events. Pure: no socket, no clock.

WHATWG HTML, section 9.2.5 "Parsing an event stream": a field ends at LF, CR or CR LF, an event at a blank line.
"""

from collections.abc import Iterable, Iterator, Sequence

from relay.ollama.chat_line import ERROR_PREFIX

HEARTBEAT = b": waiting\n"
"""A comment, which clients ignore. It shows clients and proxies that the stream is alive. No blank line follows: some
libraries (httpx-sse, sseclient, fetch-event-source) take it for the end of an event, which has no data then."""

CR = 0x0D
"""As a number: ``CR in line`` takes a fifth of the time of ``b"\\r" in line``."""

ERROR_PREFIX_LENGTH = len(ERROR_PREFIX)

MAX_FRAME = 64
"""Bytes that an event has beside its line, at most."""


def event(number: int, line: bytes) -> bytes:
    """Format one line of a reply as one event, named ``error`` if it is an error line.

    :param number: the line's number within its reply; the event's id, to which ``Last-Event-ID`` refers.
    :param line: UTF-8 without LF. A CR can only be white space between JSON tokens (RFC 8259, section 7 forbids it in
        strings), but would end the field; it is replaced by a space.
    """
    if CR in line:
        line = line.replace(b"\r", b" ")
    if line[:ERROR_PREFIX_LENGTH] == ERROR_PREFIX:  # chat_line.is_error_line(), without a call per line and viewer
        return b"id: %d\nevent: error\ndata: %b\n\n" % (number, line)
    return b"id: %d\ndata: %b\n\n" % (number, line)


def events(first: int, lines: Sequence[bytes], limit: int) -> tuple[bytes, int]:
    """Format as many of ``lines`` as fit into ``limit`` bytes.

    :param first: the number of ``lines[0]``.
    :returns: the events, and the number of lines in them: 0 if the first line alone is too large (see
        :func:`event_slices`).
    """
    if len(lines) == 1 and len(lines[0]) <= limit - MAX_FRAME:
        return event(first, lines[0]), 1
    formatted: list[bytes] = []
    size = 0
    for number, line in enumerate(lines, first):
        if len(line) > limit:
            break
        one = event(number, line)
        size += len(one)
        if size > limit:
            break
        formatted.append(one)
    return b"".join(formatted), len(formatted)


def event_slices(number: int, line: bytes, limit: int) -> Iterator[bytes]:
    """Format one line as :func:`event` does, in slices of at most ``limit`` bytes, which are 64 or more.

    A large line is thus in memory once, however many viewers it has.
    """
    name = b"event: error\n" if line.startswith(ERROR_PREFIX) else b""
    head = b"id: %d\n%bdata: " % (number, name)
    yield head + line[: limit - len(head)].replace(b"\r", b" ")
    for start in range(limit - len(head), len(line), limit):
        yield line[start : start + limit].replace(b"\r", b" ")
    yield b"\n\n"


def named_event(id: str, name: str, data: Iterable[bytes]) -> Iterator[bytes]:
    """Format an event that is not a line of a reply.

    :param name: the event's type; ``message`` is the default type.
    :param data: UTF-8 without LF and CR, in slices.
    """
    yield b"id: %b\nevent: %b\ndata: " % (id.encode(), name.encode())
    yield from data
    yield b"\n\n"
