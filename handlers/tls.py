"""TLS towards clients: the certificate, which can be exchanged while the server runs, and the time for a handshake."""

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from tornado.iostream import IOStream, SSLIOStream

from handlers.http_server import Server

log = logging.getLogger("chatterd.http")

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client may take for the handshake."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its chain, and its private key, in files (PEM). No ``keyfile``: both are in one."""

    certfile: str
    keyfile: str = ""

    def context(self) -> ssl.SSLContext:
        """Read the files.

        TLS 1.2 or newer and OpenSSL's own choice of ciphers, as Python has it; HTTP/1.1 is what is spoken (RFC 7301).

        :raises OSError: a file is missing or unreadable, or they do not fit together; a sentence says which and why.
        """
        if not self.certfile:
            raise OSError("--keyfile is given without --certfile")
        self._check("--certfile", self.certfile)
        self._check("--keyfile", self.keyfile or self.certfile)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certfile, self.keyfile or None, _no_password)
        except ssl.SSLError as error:
            files = f"--certfile={self.certfile} and --keyfile={self.keyfile or self.certfile}"
            why = (error.reason or "not PEM").lower().replace("_", " ")
            raise OSError(f"{files} are not a certificate and its private key: {why}") from error
        return context

    def _check(self, setting: str, file: str) -> None:
        try:
            with Path(file).open("rb"):
                pass
        except OSError as error:
            raise OSError(f"{setting}={file} cannot be read: {error.strerror}") from error


class TlsServer(Server):
    """The server, which closes a connection whose handshake does not end."""

    def exchange(self, pair: KeyPair) -> None:
        """Show the certificate that is in the files now to whoever connects from now on; open connections go on.

        If the files are broken the certificate stays as it was.
        """
        try:
            self.ssl_options = pair.context()
        except OSError as error:
            log.error("The new certificate is refused, the old one stays: %s", error)
        else:
            log.info("New connections get the certificate in %s as it is now.", pair.certfile)

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        """Serve a connection (called by Tornado)."""
        if isinstance(stream, SSLIOStream):
            timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, stream.close)
            stream.wait_for_handshake().add_done_callback(lambda shaken: _stop(timer, shaken))
        super().handle_stream(stream, address)


def _stop(timer: asyncio.TimerHandle, shaken: "asyncio.Future[SSLIOStream]") -> None:
    timer.cancel()
    shaken.exception()  # Tornado has logged it; asyncio logs an exception never looked at


def _no_password() -> str:
    raise OSError("the private key is encrypted; store it without a password, readable only by this server's user")
