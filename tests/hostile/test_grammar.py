"""Requests of a grammar, the same each time; `python -m tests.soak grammar` sends fifty thousand others."""

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from tests.fakes.ollama import ScriptedOllama
from tests.hostile.grammar.attempts import PLAN, Attempt, Call, Known, Sizes, attempts
from tests.hostile.grammar.campaign import HELD, Campaign, two_servers
from tests.hostile.grammar.judgement import Verdict
from tests.hostile.grammar.watched import Watch
from tests.hostile.request import Request

SEED = 15
COUNT = 2_000
SIZES = Sizes(rare=100, most=1_000_000)


def test_requests_of_the_grammar_get_documented_answers_and_leave_no_trace(
    ollama: ScriptedOllama, new_database: Callable[[], str], tmp_path: Path
) -> None:
    with two_servers([new_database(), new_database()], ollama, tmp_path) as servers:
        campaign = Campaign(servers, ollama, SEED, SIZES)
        campaign.send(COUNT)
        wrong = campaign.verdict.wrong
        assert not wrong, f"seed {SEED}, {len(wrong)} errors\n" + "\n".join(wrong[:20])
        assert campaign.verdict.requests == COUNT
        assert {200, 202, 204, 400, 401, 403, 404, 405, 406, 413, 415, 422} <= campaign.verdict.statuses.keys()
        assert campaign.verdict.statuses[200] > COUNT / 4  # not all of them are rejected


def test_a_seed_reproduces_its_requests() -> None:
    def some() -> list[Attempt]:
        known = Known(["token"], ["/llmchat/x"])
        return list(attempts(SEED, [known, known], SIZES, 100))

    assert some() == some()
    assert sum(len(one.calls) for one in some()) == 100


def test_the_plan_has_each_kind_of_value_at_each_place() -> None:
    assert len(PLAN) == len(set(PLAN)) > 3_000
    at_places = {name: len(list(group)) for name, group in itertools.groupby(PLAN, key=lambda one: (one[0], one[2]))}
    assert len(at_places) > 100


# Self-tests of the verdict and of the watch.

JSON = b"Content-Type: application/json; charset=utf-8\r\n"


def answer(status: bytes, body: bytes = b'{"error":"A sentence."}', fields: bytes = JSON) -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n" % (status, fields, len(body)) + body


@pytest.mark.parametrize(
    ("received", "what"),
    [
        (answer(b"500 X"), "500"),
        (answer(b"503 X"), "503"),
        (answer(b"409 X"), "409 is not documented"),
        (answer(b"400 X", b'{"error":"no sentence"}'), "no sentence"),
        (answer(b"200 X", b'{"name":1,"tenant":"","operator":false}'), '1 is not of type "string"'),
        (answer(b"200 X", b"[]"), "200 of get /sign-in/me"),
        (answer(b"200 X", b"x", b"Content-Type: text/plain\r\n"), "text/plain is not documented"),
        (answer(b"401 X")[:-1], "not complete"),
        (answer(b"401 X") * 2, "2 answers to 1 requests"),
        (b"", "not complete"),
        (b"words", "not HTTP"),
    ],
)
def test_the_verdict_reports_answers_that_are_not_documented(received: bytes, what: str) -> None:
    verdict = Verdict()
    verdict.judge(Attempt(0, 0, [Call("/sign-in/me", Request(b"GET", b"/sign-in/me"))]), received)
    assert what in verdict.wrong[0]


def test_the_watch_reports_a_loop_that_is_held_and_no_other() -> None:
    async def work() -> None:
        watch = Watch(asyncio.get_running_loop())
        for _ in range(10):
            await asyncio.sleep(0.02)
            _compute(HELD / 4)
        assert float(watch.take()["held"]) < HELD
        _compute(HELD * 1.2)
        await asyncio.sleep(0.1)
        report = watch.take()
        assert float(report["held"]) > HELD and "_compute" in str(report["stack"])
        used = time.process_time()
        sum(range(5_000_000))  # in C, with the interpreter's lock
        used = time.process_time() - used
        await asyncio.sleep(0.1)
        assert float(watch.take()["held"]) > used
        watch.stop()

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(work())


def _compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
