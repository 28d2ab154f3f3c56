"""A proxy that ends TLS in front of a PostgreSQL, as the proxies of Neon and Supabase do.

The embedded PostgreSQL is built without TLS and listens on a socket in the file system. What is spoken is PostgreSQL's
protocol (manual, section 54.2.10): a client that wants TLS sends SSLRequest, reads the byte ``S``, and begins the
handshake.
"""

import asyncio
import contextlib
import ssl
import struct
from pathlib import Path

import trustme

from .loop_thread import LoopThread
from .sockets import bound_socket

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class TLSTerminator(LoopThread):
    """Listens on a free port of 127.0.0.1 while its ``with`` block runs.

    :param target: the socket of the PostgreSQL.
    :param certificate: for its clients.
    :ivar port: its own port.
    :ivar encrypted: number of connections with TLS.
    :ivar plain: number of connections without.
    """

    def __init__(self, target: Path, certificate: trustme.LeafCert) -> None:
        super().__init__("TLS terminator")
        self._target = target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self._context)
        self._socket = bound_socket(0)
        self.port: int = self._socket.getsockname()[1]
        self.encrypted = 0
        self.plain = 0

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._socket)
        self._ready.set()
        await self._leaving.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            try:
                await self._relay(reader, writer)
            finally:
                writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = await reader.readexactly(len(SSL_REQUEST))
        if start == SSL_REQUEST:
            writer.write(b"S")
            await writer.start_tls(self._context)
            self.encrypted += 1
            start = b""
        else:
            self.plain += 1
        postgres_reader, postgres = await asyncio.open_unix_connection(str(self._target))
        postgres.write(start)
        ways = [asyncio.create_task(_copy(reader, postgres)), asyncio.create_task(_copy(postgres_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            postgres.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
