"""Runs client libraries against one chatterd, many at a time: most of what they do is to wait."""

import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from tests.client import Client
from tests.clients.libraries import DRIVERS, Library
from tests.database import rows
from tests.fakes.event_cutter import EventCutter, Received
from tests.fakes.ollama import Answer, Head, Lines, Pause, ScriptedOllama, Step, Words, last_line, line
from tests.program import ROOT, Program
from tests.system_packages import NODE_MODULES, is_installed
from tests.viewers import log_of

AT_ONCE = 6
"""Libraries that run at the same time."""

SILENT_AT_ONCE = 20
"""The same, where they wait for 20 s."""

RUN_TIMEOUT = 180.0
"""Seconds for a library to read a reply."""

WORDS = 200

SILENCE = 20.0
"""Seconds for which Ollama says nothing."""

LONG = 7_000_000
"""Characters of the longest line."""

CUT_AFTER = 40
"""Events on each of the connections that are cut."""

CUTS = 3


@dataclass(frozen=True)
class Scene:
    """What happens while a library reads a reply.

    :param name: of the model, whose name tells the scripted Ollama what to do.
    :param method: POST: the library sends the prompt, if it can. GET: it follows a reply.
    :param cuts: number of cut connections.
    :param closes: whether the library is told to stop at the last event.
    :param at_once: number of libraries that run at the same time.
    """

    name: str
    method: str
    cuts: int = 0
    closes: bool = True
    at_once: int = AT_ONCE


SCENES = {
    scene.name: scene
    for scene in (
        Scene("words", "POST"),
        Scene("cuts", "GET", cuts=CUTS),
        Scene("cut-post", "POST", cuts=CUTS),
        Scene("left-open", "POST", closes=False),
        Scene("silence", "POST", at_once=SILENT_AT_ONCE),
        Scene("long-line", "POST"),
    )
}


class ByModel(Step):
    """Answers as the model's name says."""

    async def play(self, answer: Answer) -> None:
        model = answer.request.json["model"]
        if model == "silence":
            await Pause(SILENCE).play(answer)
        if model == "long-line":
            await Head().play(answer)
            await Lines(line("x" * LONG), last_line()).play(answer)
        else:
            await Words(pause=0.01 if model.startswith("cut") else 0).play(answer)


@dataclass
class Run:
    """What came of one library in one scene.

    :ivar events: as the library delivered them: id, name, data.
    :ivar log: the reply as it is in the log: the same.
    :ivar messages: role and content of the conversation's messages afterwards.
    :ivar requests: what came through the proxy that cuts.
    """

    events: list[list[str]] = field(default_factory=list)
    log: list[list[str]] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves the drivers and node_modules, with the suffix that imports of bundled libraries lack."""

    def translate_path(self, path: str) -> str:
        name = urlsplit(path).path.removeprefix("/")
        if name in ("", "libraries.mjs"):
            return str(DRIVERS / (name or "page.html"))
        found = NODE_MODULES / name.removeprefix("node_modules/")
        return str(found if found.suffix in (".js", ".mjs") else found.with_suffix(".js"))

    def log_message(self, format: str, *args: Any) -> None:
        pass


Files.extensions_map = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", "": "text/plain"}


@pytest.fixture(scope="session")
def pages() -> Iterator[str]:
    """Serve the files for pages of another origin; yield the origin."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Runner:
    """Runs libraries against one chatterd."""

    def __init__(self, url: str, database_url: str, pages: str, folder: Path, stack: ExitStack) -> None:
        self.url = url
        self._database_url = database_url
        self._pages = pages
        self._folder = folder
        self._cutters = {cuts: stack.enter_context(EventCutter(url, CUT_AFTER, cuts)) for cuts in (0, CUTS)}
        self._executors = {size: stack.enter_context(ThreadPoolExecutor(size)) for size in (AT_ONCE, SILENT_AT_ONCE)}

    def run(self, library: Library, scene: Scene) -> Run:
        """Let a library read a reply in a conversation of its own.

        :raises AssertionError: the driver fails, or does not end in time.
        """
        with Client(self.url, appid=f"{library.name} {scene.name}") as client:
            fields: dict[str, Any] = {"model": scene.name, "options": {"num_predict": WORDS}}
            cutter = self._cutters[scene.cuts]
            if scene.method == "GET" or not library.posts:
                path, body = client.begin("hi", **fields), None
            else:
                path, body = "/llmchat", client.body("hi", **fields)
            options = {
                "library": library.name,
                "method": "GET" if body is None else "POST",
                "url": cutter.url + path,
                "body": body,
                "closes": scene.closes,
                "page": self._pages,
            }
            done = subprocess.run(
                library.command(options, self._folder),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=RUN_TIMEOUT,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return Run(
                json.loads(done.stdout), self._log(client), client.messages(), requests_for(cutter, path, client)
            )

    def _log(self, client: Client) -> list[list[str]]:
        """Return the events of the only reply of a conversation."""
        query = "SELECT '/llmchat/' || id AS path FROM replies WHERE appid = $1::text"
        [reply] = rows(self._database_url, query, client.appid)
        lines = log_of(self._database_url, reply["path"])
        return [[str(number), "message", one] for number, one in enumerate(lines)]

    def start(self, library: Library, scene: Scene) -> "Future[Run]":
        """Let a library read a reply, together with others; return what comes of it."""
        return self._executors[scene.at_once].submit(self.run, library, scene)


def requests_for(cutter: EventCutter, path: str, client: Client) -> list[Received]:
    """Return the requests of one conversation: of its reply, or with its prompt."""
    # With the quotation marks: the name of one library may end as that of another.
    appid = json.dumps(client.appid).encode()
    return [one for one in cutter.requests if one.path == path != "/llmchat" or appid in one.body]


@pytest.fixture(scope="session")
def runner(new_database: Callable[[], str], pages: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Yield a runner with a chatterd of its own, whose settings are the defaults."""
    database_url = new_database()
    settings: dict[str, object] = {"embedded_model": False, "drain_timeout": 1, "cors_origins": pages}
    with (
        ScriptedOllama() as ollama,
        Program(database_url=database_url, ollama_host=ollama.url, **settings) as program,
        ExitStack() as stack,
    ):
        ollama.default = (ByModel(),)
        yield Runner(program.url, database_url, pages, tmp_path_factory.mktemp("drivers"), stack)
        assert program.alarms([]) == []


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, runner: Runner) -> dict[tuple[str, str], "Future[Run]"]:
    """Start all runs that the session's tests look at."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    parameters = [item.callspec.params for item in items]
    wanted = [
        (str(one["scene"]), cast(Library, one["library"])) for one in parameters if {"scene", "library"} <= one.keys()
    ]
    return {
        (library.name, scene): runner.start(library, SCENES[scene])
        for scene, library in sorted(wanted, key=lambda one: one[0] != "silence")
        if all(map(is_installed, library.needs))
    }


@pytest.fixture
def run(runs: dict[tuple[str, str], "Future[Run]"], library: Library, scene: str) -> Run:
    """Return what came of a library in a scene."""
    return runs[library.name, scene].result()
