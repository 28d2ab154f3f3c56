"""The embedded PostgreSQL, by itself."""

import shutil
import stat
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from embedded.postgres import EmbeddedPostgres


@pytest.mark.parametrize("length", [1, 100])
def test_no_other_user_of_the_machine_reaches_it(length: int) -> None:
    """It asks for no password. Where the folder's path is too long for a socket, the socket is in none of ours."""
    base = Path(tempfile.mkdtemp(prefix="chatterd-test-"))
    server, folder = EmbeddedPostgres(base / ("x" * length) / "postgres"), base
    try:
        for _ in range(2):
            folder = Path(parse_qs(urlsplit(server.start()).query)["host"][0])
            assert stat.S_IMODE((folder / ".s.PGSQL.5432").stat().st_mode) & 0o077 == 0
            server.stop()
    finally:
        server.stop()
        if not folder.is_relative_to(base):
            folder.rmdir()
        shutil.rmtree(base)
