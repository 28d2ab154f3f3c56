"""Tokens for tests: a token file, created as an operator does it, and clients that send tokens."""

from pathlib import Path

from auth import token_file
from tests.client import Client


class TokenFile:
    """A token file; ``token[name]`` is the token of that name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token: dict[str, str] = {}

    def add(self, name: str, tenant: str = "", operator: bool = False) -> str:
        self.token[name] = token_file.create_token(self.path, name, tenant, operator)
        return self.token[name]

    def remove(self, name: str) -> None:
        """Remove a token's line from the file."""
        digest = token_file.digest(self.token[name])
        lines = self.path.read_text().splitlines(keepends=True)
        self.path.write_text("".join(line for line in lines if digest not in line))

    def client(self, url: str, name: str, appid: str | None = None) -> Client:
        """Return a client that sends the token of that name."""
        client = Client(url, appid)
        client.http.headers["Authorization"] = f"Bearer {self.token[name]}"
        return client
