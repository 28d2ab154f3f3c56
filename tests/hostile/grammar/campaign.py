"""Send requests of the grammar to two servers, and check that both are unharmed."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import trustme

from tests.client import Client
from tests.database import eventually, rows
from tests.fakes.ollama import ScriptedOllama
from tests.hostile.grammar.attempts import CONVERSATIONS, Known, Sizes, attempts
from tests.hostile.grammar.bodies import USUAL
from tests.hostile.grammar.judgement import Verdict
from tests.hostile.grammar.model import GrammarModel
from tests.hostile.grammar.sender import send_all
from tests.hostile.grammar.watched import WatchedProgram
from tests.tokens import TokenFile

HELD = 0.25
"""Seconds of CPU time for which a loop may be held."""

SPARE_SOCKETS = 12
"""Additional open files that are no leak: connections to PostgreSQL and Ollama that were opened meanwhile."""


@dataclass(frozen=True)
class Server:
    """One of the servers under attack, and what its senders know."""

    program: WatchedProgram
    known: Known
    database_url: str
    trust: ssl.SSLContext

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.program.process.pid)

    def client(self, appid: str) -> Client:
        """Return a client of a conversation, with a token if there are any."""
        client = Client(self.program.url, appid, self.trust)
        if self.known.tokens:
            client.http.headers["Authorization"] = f"Bearer {self.known.tokens[0]}"
        return client


@contextlib.contextmanager
def two_servers(database_urls: Sequence[str], ollama: ScriptedOllama, folder: Path) -> Iterator[list[Server]]:
    """Run a server without authentication and TLS, and one with both."""
    authority = trustme.CA()
    certificate = folder / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    file = TokenFile(folder / "tokens")
    tokens = [file.add("alice"), file.add("bob"), file.add("olivia", operator=True)]
    common: dict[str, object] = {"ollama_host": ollama.url, "embedded_model": False, "drain_timeout": 1}
    secure: dict[str, object] = {"auth": "token", "token_file": file.path, "data_dir": folder, "certfile": certificate}
    with (
        WatchedProgram(database_url=database_urls[0], **common) as plain,
        WatchedProgram(database_url=database_urls[1], max_prompt_characters=20_000_000, **common, **secure) as other,
    ):
        yield [
            Server(program, Known(known, []), url, trust)
            for program, known, url in zip((plain, other), ([], tokens), database_urls, strict=True)
        ]


@dataclass(frozen=True)
class Memory:
    """Megabytes of a server, garbage collected: resident, and without what malloc keeps."""

    resident: float
    used: float


class Campaign:
    """Attacks servers, and collects what went wrong.

    :ivar held: the longest time for which a loop was held, in seconds of CPU time.
    :ivar memory: of each server, at the beginning and after each round.
    """

    def __init__(self, servers: Sequence[Server], ollama: ScriptedOllama, seed: int, sizes: Sizes) -> None:
        self.verdict = Verdict()
        self.held = 0.0
        self.memory: list[list[Memory]] = [[] for _ in servers]
        self._seed = seed
        self._rounds = 0
        self._sizes = sizes
        self._ollama = ollama
        ollama.default = (GrammarModel(10**9, 1),)
        self.servers = [self._begin(number, server) for number, server in enumerate(servers)]
        self._files = [server.process.num_fds() for server in self.servers]

    def _begin(self, number: int, server: Server) -> Server:
        """Let a server have two replies that are known."""
        with server.client("known") as client:
            replies = []
            for key in ("one", "two"):
                replies.append(client.begin("hi", headers={"Idempotency-Key": key}))
                client.view(replies[-1])
        self._note_memory(number, server.program.report())
        return Server(server.program, Known(server.known.tokens, replies), server.database_url, server.trust)

    def send(self, count: int) -> None:
        """Send requests, and check that the servers are as before."""
        self._ollama.default = (GrammarModel(3, USUAL),)
        urls = [server.program.url for server in self.servers]
        made = attempts(self._seed + self._rounds, [server.known for server in self.servers], self._sizes, count)
        asyncio.run(send_all(urls, made, self.servers[0].trust, self.verdict))
        self._rounds += 1
        self._ollama.default = (GrammarModel(10**9, 1),)
        for number, server in enumerate(self.servers):
            self._check(number, server)

    def _note_memory(self, number: int, report: Mapping[str, float | str]) -> None:
        self.memory[number].append(Memory(float(report["resident"]), float(report["used"])))

    def _check(self, number: int, server: Server) -> None:
        wrong = self.verdict.wrong
        if server.program.process.poll() is not None:
            code = server.program.process.returncode
            wrong.append(f"chatterd has died with status {code}: {server.program.log[-2_000:]}")
            return
        nothing_streams = "SELECT FROM replies WHERE status = 'streaming'"
        eventually("no reply runs", lambda: not rows(server.database_url, nothing_streams))
        wrong += _unusable(server)
        report = server.program.report()
        self._note_memory(number, report)
        held = float(report["held"])
        self.held = max(self.held, held)
        if held > HELD:
            wrong.append(f"the loop of server {number} was held for {held:.2f} s: {report['stack']}")
        limit = self._files[number] + SPARE_SOCKETS
        eventually("no socket is left", lambda: server.process.num_fds() <= limit)
        wrong += [f"the log of server {number} says: {alarm}" for alarm in server.program.alarms([])]


def _unusable(server: Server) -> Iterator[str]:
    """Yield an error for each conversation that cannot be read, continued and forgotten."""
    for number in range(CONVERSATIONS):
        with server.client(f"grammar-{number}") as client:
            appid = {"appID": client.appid}
            answer = client.http.get("/llmchat", params={**appid, "limit": 500})
            if answer.status_code != 200:
                yield f"the conversation {client.appid} cannot be read: {answer.status_code} {answer.text[:200]}"
            last = client.ask("still there?")[-1].json
            # Ollama rejects a conversation with fields of types that it does not know, such as "tool_calls": true.
            if last.get("done") is not True and "Ollama answered 400" not in last.get("error", ""):
                yield f"the conversation {client.appid} cannot be continued: {last}"
            if (status := client.http.delete("/llmchat", params=appid).status_code) != 204:
                yield f"the conversation {client.appid} cannot be forgotten: {status}"


def results(campaign: Campaign, began: float) -> dict[str, str]:
    """Return the results of a campaign."""
    statuses = ", ".join(f"{status}: {times:,}" for status, times in sorted(campaign.verdict.statuses.items()))
    return {
        "requests": f"{campaign.verdict.requests:,}",
        "answers (status: times)": statuses,
        "connections that their client left early": f"{campaign.verdict.left:,}",
        "closed without an answer, to a malformed request": f"{campaign.verdict.unanswered:,}",
        "a loop was held for, at most": f"{campaign.held:.3f} s of CPU time",
        "time in all": f"{time.monotonic() - began:.0f} s",
    }
