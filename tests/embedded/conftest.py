"""Fixtures of the embedded PostgreSQL and the embedded model: folders with data, a running model and its clients."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import ollama
import pytest

from embedded.postgres import EmbeddedPostgres
from tests.client import NO_TLS
from tests.embedded.model_process import Running, start


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


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start(tmp_path_factory.mktemp("ollama") / "log")
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.fixture
def client(running: Running) -> Iterator[ollama.Client]:
    with ollama.Client(host=running.url, timeout=60) as client:
        yield client


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60, verify=NO_TLS) as http:
        yield http


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run programs as other users")
