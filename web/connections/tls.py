"""The certificate and private key for connections from clients."""

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Files with a certificate and its chain, and its private key (PEM).

    :param keyfile: empty if ``certfile`` holds the key, too.
    """

    certfile: str
    keyfile: str = ""

    def load(self) -> ssl.SSLContext:
        """Read the files.

        The context offers TLS 1.2 or newer with OpenSSL's default ciphers, and HTTP/1.1 (ALPN, RFC 7301).

        :raises OSError: a file is missing or unreadable, or the key does not belong to the certificate.
        """
        if not self.certfile:
            raise OSError("--keyfile requires --certfile")
        _check_readable("--certfile", self.certfile)
        _check_readable("--keyfile", self.keyfile or self.certfile)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certfile, self.keyfile or None, _refuse_password)
        except ssl.SSLError as error:
            files = f"--certfile={self.certfile} and --keyfile={self.keyfile or self.certfile}"
            reason = (error.reason or "not PEM").lower().replace("_", " ")
            raise OSError(f"{files} are not a certificate and its private key: {reason}") from error
        return context


def _check_readable(setting: str, file: str) -> None:
    try:
        with Path(file).open("rb"):
            pass
    except OSError as error:
        raise OSError(f"{setting}={file} cannot be read: {error.strerror}") from error


def _refuse_password() -> str:
    raise OSError("the private key is encrypted; store it without a password, readable only by this server's user")
