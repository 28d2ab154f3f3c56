"""Server-sent events: lines in, event bytes out. Pure: no socket, no clock.

WHATWG HTML, section 9.2.5 "Parsing an event stream": a field ends at LF, CR or CR LF, an event at a blank line.
"""

from collections.abc import Sequence

HEARTBEAT = b": waiting\n\n"
"""A comment: every client skips it, and whatever stands in between sees that the stream is alive."""

ERROR_PREFIX = b'{"error":"'
"""How the data of every error event begins, and of no other: a line tells by itself which event it is."""

CR = 0x0D
"""As a number: to look for one is a fifth of the work of looking for a text of one byte."""


def event(number: int, line: bytes) -> bytes:
    """Frame one line of a reply as one event.

    :param number: the line's number within its reply; becomes the event's id, so that ``Last-Event-ID`` names a line.
    :param line: UTF-8 without LF. A CR can only be white space between JSON tokens here (RFC 8259, section 7 forbids
        it inside strings) but would end the field, so it is sent as a space.
    """
    if CR in line:
        line = line.replace(b"\r", b" ")
    if line[: len(ERROR_PREFIX)] == ERROR_PREFIX:
        return b"id: %d\nevent: error\ndata: %b\n\n" % (number, line)
    return b"id: %d\ndata: %b\n\n" % (number, line)


def events(first: int, lines: Sequence[bytes], limit: int) -> tuple[bytes, int]:
    """Frame as many of ``lines`` as fit into ``limit`` bytes, at least one.

    :param first: the number of ``lines[0]``.
    :param limit: size in bytes beyond which no further event is added.
    :returns: the events' bytes and how many lines they hold.
    """
    if len(lines) == 1:
        return event(first, lines[0]), 1
    framed: list[bytes] = []
    size = 0
    for number, line in enumerate(lines, first):
        one = event(number, line)
        if framed and size + len(one) > limit:
            break
        framed.append(one)
        size += len(one)
    return b"".join(framed), len(framed)


def named_event(id: str, name: str, data: bytes) -> bytes:
    """Frame what is no line of a reply.

    :param name: what a client listens for; ``message`` is what an event without a name is.
    :param data: UTF-8 without LF and CR.
    """
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (id.encode(), name.encode(), data)
