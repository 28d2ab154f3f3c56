"""NDJSON: bytes in, whole lines out. Pure: no socket, no clock, no JSON."""

from errors import LineTooLong

LF = 0x0A
CR = 0x0D
BRACE = ord("{")


class NDJSONDecoder:
    """Cuts a byte stream at the byte ``\\n`` and at nothing else (U+2028 and U+0085 stay inside their line).

    A chunk may hold half a line or twenty; an incomplete line is kept until its end arrives. The pieces of a long
    line are joined once, so a line of n bytes costs O(n) however it is cut.

    :param max_line: longest line accepted, in bytes, its ``\\n`` not counted.
    """

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._pieces: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the lines they complete, in order, without their ends and without blank ones.

        :raises LineTooLong: a line, complete or not, exceeds ``max_line`` bytes.
        """
        if self._held + len(chunk) > self._max_line:
            self._check_lengths(chunk)
        end = chunk.find(LF)
        if end < 0:
            self._hold(chunk)
            return []
        if end == len(chunk) - 1 and not self._held and chunk[0] == BRACE and chunk[-2] != CR:
            return [chunk[:-1]]  # one whole line, as a model that is slower than the network sends it
        first, *rest = chunk.split(b"\n")
        self._hold(first)
        whole = [self._release(), *rest[:-1]]
        self._hold(rest[-1])
        return [line for line in map(_without_cr, whole) if not _blank(line)]

    def flush(self) -> list[bytes]:
        """Return what is left when the stream has ended: a last line that had no ``\\n``, or nothing."""
        line = _without_cr(self._release())
        return [] if _blank(line) else [line]

    def _hold(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._held += len(piece)

    def _release(self) -> bytes:
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        return line

    def _check_lengths(self, chunk: bytes) -> None:
        first, *rest = chunk.split(b"\n")
        longest = max([self._held + len(first), *map(len, rest)])
        if longest > self._max_line:
            raise LineTooLong(f"A line is longer than {self._max_line} bytes.")


def _without_cr(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


def _blank(line: bytes) -> bool:
    return not line or line.isspace()
