"""An issuer of JSON web tokens: makes keys, publishes them on a real socket, and signs."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER = "https://issuer.example"
AUDIENCE = "chatterd"


class Signer:
    """A private key with an id."""

    def __init__(self, id: str, kind: str = "EC", bits: int = 2048) -> None:
        self.id = id
        self.private: Any
        if kind == "RSA":
            self.private, self.algorithm = rsa.generate_private_key(65537, bits), "RS256"
        elif kind == "OKP":
            self.private, self.algorithm = ed25519.Ed25519PrivateKey.generate(), "EdDSA"
        else:
            self.private, self.algorithm = ec.generate_private_key(ec.SECP256R1()), "ES256"

    @property
    def public(self) -> dict[str, Any]:
        """The public key as an issuer publishes it."""
        algorithm: Any = jwt.get_algorithm_by_name(self.algorithm)
        return {**algorithm.to_jwk(self.private.public_key(), as_dict=True), "kid": self.id, "use": "sig"}

    def sign(self, algorithm: str | None = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token. A claim that is None is left out."""
        now = int(time.time())
        whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now + 600} | claims
        present = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(
            present, self.private, algorithm or self.algorithm, headers={"kid": self.id} | (headers or {})
        )


def key_set(*signers: Signer) -> bytes:
    """The document with the signers' public keys."""
    return json.dumps({"keys": [signer.public for signer in signers]}).encode()


class Issuer:
    """Publishes keys at ``url``.

    :ivar body: what it answers.
    :ivar location: where it says that the keys are, too.
    :ivar asked: how often it was asked.
    :ivar delay: seconds before it answers.
    """

    def __init__(self, *signers: Signer) -> None:
        self.status = 200
        self.body = key_set(*signers)
        self.asked = 0
        self.location = "/elsewhere"
        self.delay = 0.0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                time.sleep(issuer.delay)
                self.send_response(issuer.status)
                self.send_header("Location", issuer.location)
                self.send_header("Content-Length", str(len(issuer.body)))
                self.end_headers()
                self.wfile.write(issuer.body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
