"""Keeps how many tokens the windows of models hold, as far as that is known, and asks Ollama if it is not."""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from http import HTTPStatus
from time import monotonic

import msgspec

from errors import ChatterdError
from relay.ollama.client import CHAT, OllamaClient
from relay.window import model_facts
from relay.window.model_facts import LoadedModel, ModelDescription
from relay.window.request_options import load_body, num_ctx_of
from settings import Settings

log = logging.getLogger("chatterd.relay")

MAX_MODELS = 256
"""Models whose windows are kept, the ones used last."""

MAX_WINDOWS = 16
"""Windows that are kept of one model, one for each ``num_ctx`` that requests have, the ones found last."""

ASK_INTERVAL = 5.0
"""Seconds between two questions in the background for one window: what is no Ollama never tells."""

MAX_IDLE = 240.0
"""Seconds without use after which a model's windows are forgotten. An Ollama unloads a model after 5 minutes by default
(ollama ``envconfig/config.go``, ``KeepAlive``), and may load it with another window: its default depends on memory."""


@dataclass(frozen=True, slots=True)
class WindowReport:
    """What is known of a model's window.

    :ivar window: tokens that it holds, for a request that does not set it.
    :ivar trained: tokens of the longest window that the model was trained for.
    :ivar loaded: whether the model is loaded.
    :ivar loaded_window: tokens of the window that it is loaded with: another one, if a request has asked for that.
    :ivar memory_bytes: of the loaded model, on processors and graphics cards together.
    :ivar bytes_per_token: memory of one token of its window, about.
    """

    window: int | None
    trained: int | None
    loaded: bool = False
    loaded_window: int | None = None
    memory_bytes: int | None = None
    bytes_per_token: int | None = None


@dataclass(slots=True)
class _Entry:
    """What is known of one model of one Ollama.

    :ivar windows: the window for each ``num_ctx`` of requests; None: for those without.
    :ivar exact: those of them that Ollama has named in an error, whatever else it says.
    :ivar description: what the model is; None if Ollama has not said that.
    """

    used_at: float = field(default_factory=monotonic)
    windows: OrderedDict[int | None, int] = field(default_factory=OrderedDict)
    exact: set[int | None] = field(default_factory=set)
    description: ModelDescription | None = None

    def known(self, num_ctx: int | None) -> int | None:
        found = self.windows.get(num_ctx) or num_ctx
        trained = self.description.trained if self.description else None
        return min(found, trained or found) if found else None

    def keep(self, num_ctx: int | None, window: int) -> int | None:
        if num_ctx not in self.exact:
            self.windows[num_ctx] = window
        self.windows.move_to_end(num_ctx)
        if len(self.windows) > MAX_WINDOWS:
            self.exact.discard(self.windows.popitem(last=False)[0])
        return self.known(num_ctx)

    def keep_exact(self, num_ctx: int | None, window: int) -> None:
        self.exact.discard(num_ctx)
        self.keep(num_ctx, window)
        self.exact.add(num_ctx)

    def forget(self) -> None:
        self.windows.clear()
        self.exact.clear()
        self.description = None


@dataclass(slots=True)
class _Question:
    """A question to Ollama, and how many callers wait for its answer."""

    task: "asyncio.Task[int | None]"
    callers: int = 0


_Key = tuple[str, str]


class ModelWindows:
    """The windows of models, for each Ollama. One instance for a process.

    A window is what a request would get: the ``num_ctx`` of the request, else ``--num-ctx``, else that of the loaded
    model or of its Modelfile, and never more than the model was trained for (ollama ``server/sched.go``,
    ``effectiveContext``).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._questions: dict[tuple[_Key, int | None, bool, bool], _Question] = {}
        self._asked: OrderedDict[tuple[_Key, int | None], tuple[float, asyncio.Task[int | None]]] = OrderedDict()

    def known(self, ollama: OllamaClient, model: str, num_ctx: int | None) -> int | None:
        """Return the tokens of a window, without asking Ollama; None if they are not known.

        :param num_ctx: of the request, if it has one.
        """
        num_ctx = self._effective(num_ctx)
        entry = self._use(_key(ollama, model))
        return entry.known(num_ctx) if entry else num_ctx

    def is_certain(self, ollama: OllamaClient, model: str, num_ctx: int | None) -> bool:
        """Return whether a window cannot be that of another request, with which the model happens to be loaded.

        :param num_ctx: of the request, if it has one.
        """
        num_ctx = self._effective(num_ctx)
        entry = self._use(_key(ollama, model))
        if num_ctx is not None or entry is None:
            return num_ctx is not None
        return None in entry.exact or bool(entry.description and entry.description.remote)

    def description(self, ollama: OllamaClient, model: str) -> ModelDescription | None:
        """Return what a model is, without asking Ollama; None if that is not known."""
        entry = self._use(_key(ollama, model))
        return entry.description if entry else None

    def ask(
        self, ollama: OllamaClient, model: str, num_ctx: int | None, conversation_key: str
    ) -> "asyncio.Task[int | None]":
        """Ask for the window of a loaded model, and what the model is, in the background: at most once in
        :data:`ASK_INTERVAL` for all callers.

        :param num_ctx: of the request, if it has one.
        :returns: the question, which may be answered already; see :meth:`find`.
        """
        key, now = (_key(ollama, model), num_ctx), monotonic()
        asked_at, asking = self._asked.get(key, (0.0, None))
        if asking is None or now - asked_at >= ASK_INTERVAL:
            request = msgspec.json.encode({"options": {"num_ctx": num_ctx}}).decode()
            asking = asyncio.create_task(self.find(ollama, model, request, conversation_key, load=False))
            self._asked[key] = now, asking
            self._asked.move_to_end(key)
            if len(self._asked) > MAX_MODELS:
                self._asked.popitem(last=False)
        return asking

    async def find(
        self, ollama: OllamaClient, model: str, request: str, conversation_key: str, load: bool, anew: bool = False
    ) -> int | None:
        """Ask Ollama for the tokens of a window. Callers that ask for the same at the same time share one question,
        which ends with the last of them.

        :param request: the JSON object of the request for a reply, without messages.
        :param conversation_key: see :meth:`relay.ollama.client.OllamaClient.stream`; of callers that share a question,
            the first one's.
        :param load: whether to load the model if nothing else tells.
        :param anew: whether to load it as the request will even if it is loaded, perhaps as another program wants it.
        :returns: None if they cannot be known.
        """
        num_ctx = self._effective(_num_ctx(request))
        key = (_key(ollama, model), num_ctx, load, anew)
        question = self._questions.get(key)
        if question is None:
            asking = self._find(ollama, model, num_ctx, request if load else None, conversation_key, anew)
            question = self._questions[key] = _Question(asyncio.create_task(asking))
        question.callers += 1
        try:
            return await asyncio.shield(question.task)
        finally:
            question.callers -= 1
            if not question.callers:
                question.task.cancel()  # without effect once it is done
                if self._questions.get(key) is question:
                    del self._questions[key]

    def observe(self, ollama: OllamaClient, model: str, window: int, num_ctx: int | None = None) -> None:
        """Note the window of a model, which Ollama has named in an error. It counts until the model is loaded anew.

        :param window: tokens.
        :param num_ctx: of the request, if it has one.
        """
        self._get(_key(ollama, model)).keep_exact(self._effective(num_ctx), window)

    def on_loaded(self, ollama: OllamaClient, model: str) -> None:
        """Forget what is known of a model that was loaded anew: it may have another window, or be another one."""
        key = _key(ollama, model)
        if entry := self._use(key):
            entry.forget()
        for asked in [asked for asked in self._asked if asked[0] == key]:
            del self._asked[asked]

    async def report(self, ollama: OllamaClient, model: str) -> WindowReport | None:
        """Ask Ollama what is to be shown of a model's window.

        :returns: None if Ollama does not have the model.
        :raises UpstreamUnreachable: Ollama does not answer.
        """
        key, num_ctx = _key(ollama, model), self._effective(None)
        loaded = await model_facts.find_loaded(ollama, model)
        status, description = await _describe(ollama, model)
        if loaded is None and status == HTTPStatus.NOT_FOUND:
            return None
        self._keep_description(key, description)
        described = self._from_description(key, num_ctx, description)
        if loaded is None:
            return WindowReport(described, description.trained)
        named = self.known(ollama, model, None) if self.is_certain(ollama, model, None) else None
        window = described or named or loaded.window  # not kept: another program may have loaded the model
        memory = model_facts.bytes_per_token(loaded, await model_facts.find_file_bytes(ollama, model))
        return WindowReport(window, description.trained, True, loaded.window, loaded.memory_bytes, memory)

    async def _find(
        self,
        ollama: OllamaClient,
        model: str,
        num_ctx: int | None,
        to_load: str | None,
        conversation_key: str,
        anew: bool,
    ) -> int | None:
        """Ask for a window.

        :param to_load: the request with whose options the model is loaded if nothing else tells.
        :param anew: see :meth:`find`.
        """
        key = _key(ollama, model)
        try:
            if anew and to_load:
                await self._load(ollama, to_load, conversation_key)
            loaded = await model_facts.find_loaded(ollama, model, conversation_key)
            window = self._from_loaded(key, num_ctx, loaded)
            if window is None or self.description(ollama, model) is None:
                _, description = await _describe(ollama, model, conversation_key)
                self._keep_description(key, description)
                window = window or self._from_description(key, num_ctx, description)
            if window is not None:
                return window
            if to_load and await self._load(ollama, to_load, conversation_key):
                loaded = await model_facts.find_loaded(ollama, model, conversation_key)
                if loaded and loaded.window:
                    return self._get(key).keep(num_ctx, loaded.window)
        except ChatterdError as error:
            log.debug("The window of %s is not known: %s", model, error)
            return num_ctx
        return loaded.window if loaded else None

    def _from_loaded(self, key: _Key, num_ctx: int | None, loaded: LoadedModel | None) -> int | None:
        """Return the window of a model as it is loaded, and keep it; None if a request would load the model anew.

        One without ``num_ctx`` would do that if a request with this window has loaded the model.
        """
        if loaded is None or loaded.window is None:
            return None
        entry = self._use(key)
        if num_ctx is None and entry and entry.windows.get(None) != loaded.window and loaded.window in entry.windows:
            return None
        if num_ctx is not None and loaded.window != num_ctx:
            return None
        return self._get(key).keep(num_ctx, loaded.window)

    def _keep_description(self, key: _Key, description: ModelDescription) -> None:
        if description != ModelDescription():
            self._get(key).description = description

    def _from_description(self, key: _Key, num_ctx: int | None, description: ModelDescription) -> int | None:
        """Return the window that a request would load a model with, and keep it; None if this is not said."""
        window = num_ctx or description.num_ctx or (description.trained if description.remote else None)
        if description == ModelDescription():
            return window
        return None if window is None else self._get(key).keep(num_ctx, min(window, description.trained or window))

    async def _load(self, ollama: OllamaClient, request: str, conversation_key: str) -> bool:
        """Load a model as a request would; return whether Ollama says that it did.

        :raises ChatterdError: Ollama cannot be reached, or the connection broke.
        """
        try:
            body = load_body(request, self._settings.num_ctx)
            status, _ = await ollama.post(CHAT, body, self._settings.first_line_timeout, conversation_key)
        except (msgspec.MsgspecError, TimeoutError):
            return False
        return status == 200

    def _effective(self, num_ctx: int | None) -> int | None:
        return num_ctx or self._settings.num_ctx or None

    def _use(self, key: _Key) -> _Entry | None:
        """Return what is known of a model; None if that is nothing, or too old."""
        entry, now = self._entries.get(key), monotonic()
        if entry is None:
            return None
        if now - entry.used_at > MAX_IDLE:
            del self._entries[key]
            return None
        entry.used_at = now
        self._entries.move_to_end(key)
        return entry

    def _get(self, key: _Key) -> _Entry:
        """Return what is known of a model, from now on at least that it exists."""
        entry = self._use(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
            if len(self._entries) > MAX_MODELS:
                self._entries.popitem(last=False)
        return entry


def _key(ollama: OllamaClient, model: str) -> _Key:
    return ollama.url, model_facts.full_name(model)


def _num_ctx(request: str) -> int | None:
    try:
        return num_ctx_of(msgspec.json.decode(request, type=dict[str, msgspec.Raw]))
    except msgspec.MsgspecError:
        return None


async def _describe(ollama: OllamaClient, model: str, conversation_key: str = "") -> tuple[int, ModelDescription]:
    """Ask what a model is. No answer is an empty description: the connections to Ollama may all be in use."""
    try:
        return await model_facts.describe(ollama, model, conversation_key)
    except (ChatterdError, TimeoutError) as error:
        log.debug("Ollama did not describe %s: %s", model, error)
        return 0, ModelDescription()
