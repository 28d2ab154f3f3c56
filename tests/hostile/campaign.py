"""Send many mutated requests to a running chatterd, and check that it is unharmed."""

import asyncio
import time
from collections.abc import Iterable, Iterator

import psutil

from tests.client import Client
from tests.database import eventually, rows
from tests.fakes.ollama import Answer, Head, Lines, ScriptedOllama, Step, last_line, line
from tests.hostile.mutations import attempt
from tests.hostile.requests import FORGED
from tests.hostile.sender import Verdict, send_all
from tests.program import Program

SPARE_SOCKETS = 12
"""Additional open files that are no leak: connections to PostgreSQL that the pool has opened."""

GONE_ON_WITH = 100
"""The number of conversations that get one more prompt at the end."""


class Brief(Step):
    """Answers every request with two lines; keeps the bodies of forged requests, which must not arrive."""

    def __init__(self) -> None:
        self.forged: list[bytes] = []

    async def play(self, answer: Answer) -> None:
        if FORGED.encode() in answer.request.body and answer.request.path == "/api/chat":
            self.forged.append(answer.request.body)
        await Head().play(answer)
        await Lines(line("Hello"), last_line()).play(answer)


def send_mutated(
    program: Program, ollama: ScriptedOllama, database_url: str, seed: int, numbers: Iterable[int]
) -> Verdict:
    """Send the attempts of these numbers and return the verdict; the caller checks the log."""
    model = Brief()
    ollama.default = (model,)
    client = Client(program.url)
    process = psutil.Process(program.process.pid)
    with client.http:
        reply = client.begin("hi")
        client.view(reply)
        before = process.num_fds()
        verdict = asyncio.run(send_all(program.url, (attempt(seed, number, [reply]) for number in numbers)))
        if program.process.poll() is not None:
            verdict.wrong.append(f"chatterd has died: {program.log[-2_000:]}")
            return verdict
        verdict.wrong += [f"a forged request reached Ollama: {body!r}" for body in model.forged]
        if rows(database_url, "SELECT FROM chatts WHERE appid = $1", FORGED):
            verdict.wrong.append("a forged request is in the database")
        verdict.wrong += _unreadable(client, database_url)
        if client.ask("still there?")[-1].json.get("done") is not True:
            verdict.wrong.append("chatterd does not stream any more")
    eventually("no reply runs", lambda: not rows(database_url, "SELECT FROM replies WHERE status = 'streaming'"))
    eventually("no socket is left", lambda: process.num_fds() <= before + SPARE_SOCKETS)
    return verdict


def _unreadable(client: Client, database_url: str) -> Iterator[str]:
    """Yield an error for each conversation that cannot be read or continued."""
    for number, row in enumerate(rows(database_url, "SELECT DISTINCT appid FROM chatts WHERE appid LIKE 'fuzz-%'")):
        client.appid = row["appid"]
        answer = client.http.get("/llmchat", params={"appID": client.appid, "limit": 500})
        if answer.status_code != 200 or not answer.json()["messages"]:
            yield f"the conversation {client.appid} cannot be read: {answer.status_code} {answer.text[:200]}"
        if number < GONE_ON_WITH:
            last = client.ask()[-1].json
            # Ollama rejects a conversation with fields of types that it does not know, such as "tool_calls": true.
            if last.get("done") is not True and "Ollama answered 400" not in last.get("error", ""):
                yield f"the conversation {client.appid} cannot be continued: {last}"
    client.appid = "after"


def results(verdict: Verdict, seed: int, began: float) -> dict[str, str]:
    """Return the results of a campaign."""
    statuses = ", ".join(f"{status}: {times}" for status, times in sorted(verdict.statuses.items()))
    return {
        "seed": str(seed),
        "answers (status: times)": statuses,
        "connections closed without an answer": str(verdict.unanswered.total()),
        "time in all": f"{time.monotonic() - began:.0f} s",
    }
