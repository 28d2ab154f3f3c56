"""Tornado's streams with a count of the bytes that were read from the connection."""

from tornado.iostream import IOStream, SSLIOStream


class CountingStream(IOStream):
    """A connection.

    :ivar bytes_read: bytes that were read from it so far.
    """

    bytes_read = 0

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read from the connection (called by Tornado)."""
        size = super().read_from_fd(buf)
        self.bytes_read += size or 0
        return size


class CountingSSLStream(SSLIOStream):
    """An encrypted connection.

    :ivar bytes_read: bytes that were read from it so far, after decryption.
    """

    bytes_read = 0

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read from the connection (called by Tornado)."""
        size = super().read_from_fd(buf)
        self.bytes_read += size or 0
        return size
