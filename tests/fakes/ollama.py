"""A scripted Ollama on a real socket: the test names the exact bytes of each answer and where it pauses.

It runs in its own thread with its own loop, so that a test may block or run a loop itself::

    with ScriptedOllama() as ollama:
        gate = Gate()
        ollama.script(Head(), Lines(line("Hel")), gate, Lines(line("lo"), last_line()))
        ...                                  # the program under test asks ollama.url
        gate.reached.wait()                  # or, in a coroutine: await gate.reached
        request = ollama.arrival(0).wait()   # or: await ollama.arrival(0)
        assert request.json["model"] == "fake"
        gate.open()

Nothing here sleeps in order to synchronise; what a test may wait for is a :class:`Moment`.

Who says nothing else has a model that can be asked as a real one: by ``/api/chat``, for the rendering of a prompt
(``_debug_render_only``), by ``/api/generate`` with ``raw``, for its window::

    ollama.default = (Words(mode="closed"),)         # or open (the default), echo
    ollama.default = (Text("What it says.", mode="echo"),)
    ollama.model.num_ctx = 2048                      # see runner.Model
    ollama.deaths = {0: Death(3, RunnerDies())}      # after line 3 of generation 0
"""

import asyncio
import collections
import contextlib
import re
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from .catalog import ps, show, tags
from .connection import Connection, read_request
from .deaths import RUNNER_DIED, OllamaDies, Repeats, RunnerDies, no_backend
from .lines import CREATED_AT, encode, go_json, last_line, line, ndjson
from .moment import PATIENCE, Moment
from .refusals import refusal, refuse_by_llama_server
from .runner import Model, NoSuchPrompt, Prompt, Runner
from .script import (
    Answer,
    Body,
    Close,
    Death,
    Died,
    End,
    Gate,
    Head,
    Lines,
    Pause,
    Request,
    Reset,
    Send,
    Step,
    Whole,
    failure,
)
from .sockets import bound_socket, reset, stop_accepting
from .speakers import Speaker, Text, Words
from .template import Mode, strip_end

__all__ = [
    "PATIENCE",
    "RUNNER_DIED",
    "Answer",
    "Body",
    "Close",
    "Death",
    "End",
    "Gate",
    "Head",
    "Lines",
    "Mode",
    "Model",
    "Moment",
    "NoSuchPrompt",
    "OllamaDies",
    "Pause",
    "Prompt",
    "Repeats",
    "Request",
    "Reset",
    "RunnerDies",
    "ScriptedOllama",
    "Send",
    "Speaker",
    "Step",
    "Text",
    "Whole",
    "Words",
    "failure",
    "last_line",
    "line",
    "ndjson",
    "no_backend",
    "refuse_by_llama_server",
    "strip_end",
]

Kind = Literal["generation", "rendering", "show", "load"]
"""What a POST asks for: text, raw or not; a prompt's rendering; the description of a model; that a model is loaded."""


class ScriptedOllama:
    """Listens on a free port of 127.0.0.1 while its ``with`` block runs.

    A POST that asks for text is a generation, answered with the next script that :meth:`script` queued, else with
    :attr:`default`. Renderings (in the mode of the model that would answer next), ``/api/show``, loads (an empty chat
    that is not streamed) and probes (GET of ``/``, ``/api/version``, ``/api/tags`` and ``/api/ps``) use up no script.
    An exception in its thread, a raw prompt that nothing has rendered for one, fails the test on exit.

    :param tls: the server's side of TLS, if it is to be spoken.
    :param port: 0: any free one.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.default: tuple[Step, ...] = (Words(),)
        self.models: tuple[str | Mapping[str, Any], ...] = ("fake",)
        """What is listed: names, or further fields of Ollama's list with a name among them."""
        self.probed: Step | None = None
        """What all requests but POSTs are answered with, if they are not to be answered as Ollama does."""
        self.rendered: Step | None = None
        """What renderings are answered with, if not so."""
        self.shown: Step | None = None
        """What ``/api/show`` is answered with, if not so."""
        self.loaded: Step | None = None
        """What loads are answered with, if not so."""
        self.runner = Runner()
        self.deaths: Mapping[int, Death] = {}
        """What happens in the generation of this number, whatever its script."""
        self.requests: list[Request] = []
        """The POSTs so far, in order."""
        self.generations: list[Request] = []
        """Those of them that asked for text, raw or not."""
        self.renderings: list[Request] = []
        """Those of them that asked for a prompt's rendering."""
        self.loads: list[Request] = []
        """Those of them that asked only for a model to be loaded."""
        self.probes: list[Request] = []
        """All other requests."""
        self.errors: list[BaseException] = []
        self._scripts: collections.deque[tuple[Step, ...]] = collections.deque()
        self._arrivals: dict[tuple[Kind, int], Moment[Request]] = {}
        self._counts: collections.Counter[Kind] = collections.Counter()
        self._deaths: list[asyncio.Task[None]] = []
        self._generating: set[Answer] = set()
        self._lock = threading.Lock()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._loop = asyncio.SelectorEventLoop()  # by name: the program under test may have made uvloop the default
        self._leaving = asyncio.Event()
        self._forgotten = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="scripted Ollama")
        self._server: asyncio.Server | None = None
        # Bound but never listening: keeps the port ours while nobody listens on it.
        self._reservation = bound_socket(port)
        self.port: int = self._reservation.getsockname()[1]
        self._tls = tls
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen_again()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._call(self._shut_down)
        finally:
            self._loop.call_soon_threadsafe(self._leaving.set)
            self._thread.join(PATIENCE)
            self._reservation.close()
        if self.errors and error is not None:
            error.add_note(f"The scripted Ollama had failed before: {self.errors!r}")
        elif self.errors:
            raise self.errors[0]

    def script(self, *steps: Step) -> None:
        """Queue the answer to one POST; scripts are played in the order they were queued.

        :raises ValueError: there is no step, or one follows the answer's end.
        """
        if not steps or any(step.ends for step in steps[:-1]):
            raise ValueError("A script has steps, and none after the answer's end.")
        self._scripts.append(steps)

    @property
    def model(self) -> Model:
        """The model's settings, to be changed or replaced."""
        return self.runner.model

    @model.setter
    def model(self, model: Model) -> None:
        self.runner.model = model

    def arrival(self, number: int, kind: Kind = "generation") -> Moment[Request]:
        """When the POST of this kind and number (0 is the first), with its whole body, has arrived, perhaps already."""
        with self._lock:
            what = f"{'request' if kind == 'generation' else kind} {number} arrived at Ollama"
            return self._arrivals.setdefault((kind, number), Moment(what))

    def forget(self) -> None:
        """Begin anew: no script is queued, the next POST is number 0, and it is answered as at the start.

        Answers in progress end cleanly, without ``done``: broken later, the program would ask again, and be answered
        with the script of another test.
        """
        self._call(self._end_answers)
        with self._lock:
            for record in (self.requests, self.generations, self.renderings, self.loads, self.probes):
                record.clear()
            self._scripts.clear()
            self._arrivals.clear()
            self._counts.clear()
            self.default = (Words(),)
            self.models = ("fake",)
            self.probed = self.rendered = self.shown = self.loaded = None
            self.runner, self.deaths = Runner(), {}
        self.listen_again()

    def stop_listening(self) -> None:
        """Refuse new connections; those that stand go on."""
        self._call(self._stop_listening)

    def listen_again(self) -> None:
        """Listen, on the same port as before."""
        self._call(self._listen)

    def cut_connections(self) -> None:
        """Break all connections: RST."""
        self._call(self._cut_connections)

    def die(self) -> None:
        """Break all connections, and refuse new ones until :meth:`listen_again`. The model is not loaded then."""
        self._call(self._die)

    def kill_runner(self) -> None:
        """Let all generations end as if the runner had died: :class:`RunnerDies`."""
        self._call(self._kill_runner)

    @property
    def listening(self) -> bool:
        """Whether it accepts connections."""
        return self._server is not None

    # In its thread.

    def _run(self) -> None:
        self._loop.set_exception_handler(self._note_exception)
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._leaving.wait())

    def _note_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))

    def _call(self, function: Callable[[], Awaitable[None]]) -> None:
        async def called() -> None:
            await function()

        asyncio.run_coroutine_threadsafe(called(), self._loop).result(PATIENCE)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await self._loop.create_server(self._connection, sock=bound_socket(self.port), ssl=self._tls)

    async def _stop_listening(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await stop_accepting(server)

    async def _cut_connections(self) -> None:
        tasks = list(self._connections)
        for task, writer in self._connections.items():
            reset(writer)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _die(self) -> None:
        await self._stop_listening()
        self.runner.loaded = None
        await self._cut_connections()

    async def _kill_runner(self) -> None:
        self.runner.loaded = None
        for answer in self._generating:
            answer.runner_gone.set()

    def _kill(self, back_after: float | None) -> None:
        self._deaths.append(self._loop.create_task(self._die_for(back_after)))

    async def _die_for(self, back_after: float | None) -> None:
        await self._die()
        if back_after is not None:
            await asyncio.sleep(back_after)
            await self._listen()

    async def _end_answers(self) -> None:
        forgotten, self._forgotten = self._forgotten, asyncio.Event()
        forgotten.set()

    async def _shut_down(self) -> None:
        for death in self._deaths:
            death.cancel()
        await self._stop_listening()
        await self._cut_connections()
        await asyncio.sleep(0)  # sockets are closed by a callback

    def _connection(self) -> Connection:
        return Connection(self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()
        if not task.cancelled() and (error := task.exception()):
            self.errors.append(error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._tls:  # asyncio's TLS never goes on writing after a limit of 0
            writer.transport.set_write_buffer_limits(0)  # so that "sent" means: the kernel has it
        with contextlib.suppress(ConnectionError):  # the client has gone; who cares is told by ``closed``
            while not writer.is_closing() and (request := await read_request(reader)):
                await self._answer(request, writer)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        answer = Answer(request, writer, self.runner, self._kill)
        steps = self._steps(request, answer)
        connection = writer.transport.get_protocol()
        assert isinstance(connection, Connection)
        playing: asyncio.Future[Any] = asyncio.ensure_future(_play(steps, answer))
        leaving: asyncio.Future[Any] = asyncio.ensure_future(connection.gone.wait())
        dying: asyncio.Future[Any] = asyncio.ensure_future(answer.runner_gone.wait())
        forgotten: asyncio.Future[Any] = asyncio.ensure_future(self._forgotten.wait())
        try:
            await asyncio.wait({playing, leaving, dying, forgotten}, return_when=asyncio.FIRST_COMPLETED)
            if forgotten.done() and not playing.done():
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
                return await _end_early(answer)
            if dying.done() and not playing.done():
                playing = await _play_instead(playing, answer)
                await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                await playing
                request.answered.happen(None)
            else:
                request.closed.happen(None)
                writer.close()
        except ConnectionError:
            request.closed.happen(None)
            raise
        finally:
            self._generating.discard(answer)
            for task in (playing, leaving, dying, forgotten):
                task.cancel()
            await asyncio.gather(playing, leaving, dying, forgotten, return_exceptions=True)

    def _steps(self, request: Request, answer: Answer) -> tuple[Step, ...]:
        if request.method != "POST":
            self.probes.append(request)
            return (self.probed or self._probed(request.path),)
        kind = _kind(request)
        steps = self._take_script(answer) if kind == "generation" else (self._told(request, kind),)
        self.requests.append(request)
        if kind != "show":
            {"generation": self.generations, "rendering": self.renderings, "load": self.loads}[kind].append(request)
        number = self._counts[kind]
        self._counts[kind] += 1
        self.arrival(number, kind).happen(request)
        return steps

    def _take_script(self, answer: Answer) -> tuple[Step, ...]:
        steps = self._scripts.popleft() if self._scripts else self.default
        answer.death = self.deaths.get(self._counts["generation"])
        self._generating.add(answer)
        return (answer.death.how,) if answer.death and not answer.death.after else steps

    def _told(self, request: Request, kind: Kind) -> Step:
        if kind == "show":
            return self.shown or show(request.json, self.model)
        if kind == "load":
            return self.loaded or Words()
        speakers = [step for step in (*(self._scripts or [()])[0], *self.default) if isinstance(step, Speaker)]
        return self.rendered or _Rendering(speakers[0].mode_for(request.json) if speakers else "open")

    def _probed(self, path: str) -> Whole:
        match path:
            case "/":
                return Whole(200, b"Ollama is running", "text/plain; charset=utf-8")
            case "/api/version":
                return Whole(200, encode({"version": "0.0.0-fake"}))
            case "/api/tags":
                return Whole(200, encode(tags(self.models, self.model)))
            case "/api/ps":
                return Whole(200, encode(ps(self.runner)))
        return Whole(404, b"404 page not found", "text/plain")


async def _end_early(answer: Answer) -> None:
    """End an answer in a way after which the program does not ask again."""
    if not answer.request.sent:
        await failure(400, "this test is over").play(answer)
    elif answer.chunked:
        await answer.end()
    else:
        answer.close()


async def _play(steps: Iterable[Step], answer: Answer) -> None:
    try:
        for step in steps:
            await step.play(answer)
    except Died:
        death, answer.death = answer.death, None
        assert death
        await death.how.play(answer)
    await answer.end()


async def _play_instead(playing: asyncio.Future[None], answer: Answer) -> asyncio.Future[None]:
    """Play, instead of the rest of a script, the death of the runner."""
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    answer.death = None
    return asyncio.ensure_future(_play((RunnerDies(),), answer))


@dataclass(eq=False)
class _Rendering(Step):
    """The rendering of a prompt; an Ollama that does not know the field answers for real."""

    mode: Mode

    async def play(self, answer: Answer) -> None:
        request, model = answer.request.json, answer.runner.model
        if refused := refusal(request, model):
            return await refused.play(answer)
        if not model.renders:
            return await Words(mode=self.mode).play(answer)
        head = {"model": request["model"], "created_at": CREATED_AT, "message": {"role": "", "content": ""}}
        info = {"rendered_template": answer.runner.render(request, self.mode)}
        await Whole(200, go_json({**head, "done": False, "_debug_info": info})).play(answer)


def _kind(request: Request) -> Kind:
    if request.path.endswith("/api/show"):
        return "show"
    if request.path.endswith("/api/chat") and b'"_debug_render_only"' in request.body:
        return "rendering" if request.json.get("_debug_render_only") else "generation"
    if request.path.endswith("/api/chat") and re.search(rb'"messages":\s*\[\]', request.body):
        return "load" if request.json.get("messages") == [] and request.json.get("stream") is False else "generation"
    return "generation"
