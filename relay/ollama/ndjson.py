"""Split a byte stream into NDJSON lines. Pure: no socket, no clock, no JSON."""

from errors import LineTooLong


class NDJSONDecoder:
    """Split a byte stream at the byte ``\\n`` only: U+2028 and U+0085 do not end a line.

    A chunk may contain part of a line or several lines. An incomplete line is buffered until its end arrives, and its
    pieces are joined once: a line of n bytes costs O(n) for any chunking.

    :param max_line: maximum length of a line in bytes, without its ``\\n``.
    """

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._pieces: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Decode the next bytes. Return the lines that they complete, in order, without line ends and blank lines.

        :raises LineTooLong: a line, complete or not, is longer than ``max_line`` bytes.
        """
        if self._held + len(chunk) > self._max_line:
            self._check_lengths(chunk)
        lines = chunk.split(b"\n")
        incomplete = lines.pop()
        if lines and self._held:
            lines[0] = self._release() + lines[0]
        if incomplete:
            self._pieces.append(incomplete)
            self._held += len(incomplete)
        return _without_line_ends(lines)

    def flush(self) -> list[bytes]:
        """Return the last line of a stream that has ended, if it had no ``\n``."""
        return _without_line_ends([self._release()])

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


def _without_line_ends(lines: list[bytes]) -> list[bytes]:
    """Remove the ``\r`` of a line end of two bytes, and blank lines."""
    return [line for one in lines if (line := one.removesuffix(b"\r")) and not line.isspace()]
