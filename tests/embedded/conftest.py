"""Fixtures of the embedded PostgreSQL: folders for its data, and data that are initialized already."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedded.postgres import EmbeddedPostgres


@pytest.fixture
def base() -> Iterator[Path]:
    """Yield an empty folder that other users may enter; processes of PostgreSQL in it are not left behind."""
    folder = Path(tempfile.mkdtemp(prefix="chatterd-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def embed(base: Path) -> Iterator[Callable[[Path], EmbeddedPostgres]]:
    """Return a function that returns an embedded PostgreSQL for a folder. All are stopped after the test."""
    created: list[EmbeddedPostgres] = []

    def create(folder: Path) -> EmbeddedPostgres:
        created.append(EmbeddedPostgres(folder))
        return created[-1]

    yield create
    for server in created:
        server.stop()


@pytest.fixture(scope="session")
def _initialized() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="chatterd-test-"))
    server = EmbeddedPostgres(base / "postgres")
    try:
        server.start()
    finally:
        server.stop()
    yield base / "postgres"
    shutil.rmtree(base)


@pytest.fixture
def data(base: Path, _initialized: Path) -> Path:
    """Return a data folder that was initialized and used; the files belong to the user of the tests."""
    shutil.copytree(_initialized, base / "postgres")
    (base / "postgres").chmod(0o700)
    return base / "postgres"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run programs as other users")
