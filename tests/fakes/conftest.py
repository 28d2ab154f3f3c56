"""Fixtures of the tests of the fakes."""

from collections.abc import Iterator

import pytest

from .ollama import ScriptedOllama


@pytest.fixture
def fake() -> Iterator[ScriptedOllama]:
    """Yield a scripted Ollama for one test."""
    with ScriptedOllama() as fake:
        yield fake
