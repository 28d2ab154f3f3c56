"""The model that the scripted Ollama has, and what its runner reads in a request.

When a request loads the model anew, and with which window, is written from ollama ``server/sched.go`` (``needsReload``,
``effectiveContext``) and ``api/types.go`` (``Runner``).
"""

import collections
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .template import END, HEADER, START, TEMPLATE, THOUGHT, THOUGHT_END, Change, Mode, fit, head, render, tokens

WINDOW = 131_072
"""Words of a window that no test fills by accident."""

RUNNER_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
"""Options of the runner, besides ``num_ctx``: a request that differs in them loads the model anew."""

RENDERINGS = 1000
"""The newest renderings that are remembered: more than there are replies at once."""


class NoSuchPrompt(AssertionError):
    """A prompt that no template has rendered: it fails the test."""


@dataclass
class Model:
    """The settings of the model; a test changes them as it likes.

    :ivar renders: whether ``_debug_render_only`` is known. If not, as in an old Ollama or for a cloud model, such a
        request is answered for real.
    :ivar changes: what the renderer does to each message's text, :func:`.template.strip_end` for one.
    :ivar bos: the beginning token, with which every rendering begins and no raw prompt may.
    :ivar num_ctx: words of the window, if neither the request nor ``parameters`` says so.
    :ivar context_length: words that the model was trained for; its window is never larger.
    :ivar file_bytes: size of its files, as recorded.
    :ivar token_bytes: memory of one word of its window: what the recorded model had beyond its files, by token.
    :ivar parameters: of its Modelfile; a ``num_ctx`` among them counts.
    :ivar remote_host: where it runs, if it is one of the cloud. Then it is never loaded (``api/types.go``,
        ``ShowResponse``).
    :ivar known: the names that Ollama knows; None: every name.
    """

    renders: bool = True
    changes: Change | None = None
    bos: str = ""
    num_ctx: int = WINDOW
    context_length: int = WINDOW
    file_bytes: int = 98_362_775
    token_bytes: int = 27_134
    parameters: Mapping[str, Any] = field(default_factory=dict)
    template: str = TEMPLATE
    capabilities: Collection[str] = ("completion", "vision", "tools", "thinking")
    known: Collection[str] | None = None
    remote_host: str = ""


@dataclass(frozen=True)
class Prompt:
    """A request as the model sees it.

    :ivar given: what it has said of this answer already, and goes on from.
    :ivar text: the whole prompt.
    :ivar loaded_anew: whether the model was loaded for it.
    """

    given: str
    text: str
    window: int
    loaded_anew: bool = False

    @cached_property
    def tokens(self) -> int:
        """Words of the whole prompt, without the template's own."""
        return tokens(self.text)

    @property
    def question(self) -> str:
        """The user's last words."""
        return self.text.rpartition(f"{START}user\n")[2].partition(END)[0]

    @property
    def fits(self) -> bool:
        return self.tokens < self.window  # at its size llama-server refuses

    @property
    def cut(self) -> int:
        """What is left of a prompt that does not fit: half the window, and the template's two tokens."""
        return self.window // 2 + 2


@dataclass
class Runner:
    """The running model: what it was loaded with, and the renderings that it has been asked for.

    :ivar loaded: the model's name, its window and ``shift``. A request that differs in them loads the model anew.
    :ivar options: the options of the runner that it was loaded with, besides ``num_ctx``.
    :ivar loads: what was loaded so far, in order.
    """

    model: Model = field(default_factory=Model)
    loaded: tuple[str, int, bool | None] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    loads: list[tuple[str, int, bool | None]] = field(default_factory=list)
    _heads: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=RENDERINGS))

    def load(self, request: Mapping[str, Any]) -> int:
        """Load the model if it is not loaded as the request wants it; return the size of its window."""
        given = request.get("options") or {}
        window = int(given.get("num_ctx") or self.model.parameters.get("num_ctx") or self.model.num_ctx)
        window = min(window, self.model.context_length)
        wanted = (request["model"], window, request.get("shift"))
        options = {name: given[name] for name in RUNNER_OPTIONS if given.get(name) is not None}
        if not self.model.remote_host and (self.loaded, self.options) != (wanted, options):
            self.loaded, self.options = wanted, options
            self.loads.append(wanted)
        return window

    def render(self, request: Mapping[str, Any], mode: Mode) -> str:
        """Return the prompt of a chat, and remember which it was."""
        window, messages = self.load(request), request["messages"]
        if request.get("truncate") is not False:
            messages = fit(messages, window)
        self._heads.append(head(messages, mode, self.model.changes, self.model.bos))
        return render(messages, mode, self.model.changes, self.model.bos)

    def read(self, request: Mapping[str, Any], mode: Mode) -> Prompt:
        """Return the request as the model sees it.

        :raises NoSuchPrompt: it is raw, and no rendering.
        """
        loads = len(self.loads)
        window, said = self.load(request), ""
        if request.get("raw"):
            prompt = request["prompt"]
            said = self._said(prompt)
        elif "messages" in request:
            prompt = self._chat_prompt(request["messages"], request.get("truncate"), window, mode)
            said = _last_words(request["messages"]) if mode != "closed" else ""
        else:
            prompt = f"{request.get('system') or ''} {request['prompt']}"
        return Prompt(said, prompt, window, loaded_anew=len(self.loads) > loads)

    def _chat_prompt(
        self, messages: Sequence[Mapping[str, Any]], truncate: bool | None, window: int, mode: Mode
    ) -> str:
        kept = messages if truncate is False else fit(messages, window)
        return render(kept, mode, self.model.changes)

    def _said(self, prompt: str) -> str:
        """Return what follows the last header of the assistant in a rendering that was given, or in any."""
        bos = self.model.bos
        if bos and bos != "<bos>" and prompt.startswith(bos):  # raw takes off this one only
            raise NoSuchPrompt(f"a raw prompt that begins with {bos!r} makes the model read it twice: {prompt!r}")
        known = [one.removeprefix(bos) for one in self._heads]
        begins = [one for one in known if prompt.startswith(one)]
        if begins:
            return prompt[len(max(begins, key=len)) :]
        if not prompt.startswith(START) or HEADER not in prompt:
            raise NoSuchPrompt(f"no template has rendered this prompt: {prompt!r}")
        said = prompt.rpartition(HEADER)[2]
        _, ended, answer = said.partition(f"\n{THOUGHT_END}\n\n")
        return answer if ended and said.startswith(f"{THOUGHT}\n") else said


def _last_words(messages: Sequence[Mapping[str, Any]]) -> str:
    last = messages[-1]
    return last.get("content") or "" if last.get("role") == "assistant" else ""
