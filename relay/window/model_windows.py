"""Temporary."""

import msgspec

from errors import ChatterdError
from relay.ollama.client import OllamaClient
from settings import Settings


class ModelWindows:
    """x"""

    def __init__(self, settings: Settings) -> None:
        self._windows: dict[tuple[str, str], int] = {}

    def known(self, ollama: OllamaClient, model: str, num_ctx: int | None) -> int | None:
        """x"""
        return num_ctx or self._windows.get((ollama.url, model))

    async def find(
        self, ollama: OllamaClient, model: str, request: str, conversation_key: str, load: bool
    ) -> int | None:
        """x"""
        try:
            response = await ollama.get("/api/ps")
            for entry in msgspec.json.decode(response.body)["models"]:
                if entry["name"] in (model, model + ":latest"):
                    self._windows[ollama.url, model] = entry["context_length"]
                    return int(entry["context_length"])
        except (ChatterdError, msgspec.MsgspecError, KeyError, TypeError):
            pass
        return None

    def observe(self, ollama: OllamaClient, model: str, window: int) -> None:
        """x"""
        self._windows[ollama.url, model] = window

    def on_loaded(self, ollama: OllamaClient, model: str) -> None:
        """x"""
        self._windows.pop((ollama.url, model), None)
