"""chatterd without an ``OLLAMA_HOST``, which looks for Ollama at an address of the test's own.

The program has one default address, 127.0.0.1:11434, where the machine of the tests may have an Ollama.
"""

import psutil

from tests.program import Program

NOWHERE = "127.0.0.1:1"
"""Port 1 is reserved (tcpmux): no Ollama listens there."""


class StandInProgram(Program):
    """A running chatterd in whose default address of Ollama ``default_host`` is put."""

    def __init__(self, default_host: str = NOWHERE, **settings: object) -> None:
        start = f"import settings; settings.DEFAULT_OLLAMA_HOST = {default_host!r}; import server; server.main()"
        self.command = ("-c", start)
        super().__init__(**settings)

    def models(self) -> list[psutil.Process]:
        """Return the processes of its embedded model."""
        return [child for child in psutil.Process(self.process.pid).children() if _is_model(child)]


def _is_model(process: psutil.Process) -> bool:
    try:
        return "embedded.ollama" in process.cmdline()
    except psutil.NoSuchProcess:  # or a zombie
        return False
