"""A long conversation with a real model: the time to the first words by turn, before and after its window is full."""

import itertools
import os
import signal
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.measuring.conversation import Turn, ask, prompt
from bench.measuring.values import Values
from bench.scenarios.context import Context
from bench.servers.contender import Contender
from bench.servers.model import NAME, embedded_model
from bench.servers.server import Server


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to hold the conversation.

    :param cut_by_ollama: ask for `truncate: true`: the whole conversation is sent, and Ollama leaves out what does not
        fit, message by message.
    :param conversations: so many by turns.
    :param restart: kill the server in the middle and start it again.
    """

    cut_by_ollama: bool = False
    conversations: int = 1
    restart: bool = False


VARIANTS = {
    "blocks": Variant(),
    "blocks, two by turns": Variant(conversations=2),
    "blocks, restart": Variant(restart=True),
    "message by message": Variant(cut_by_ollama=True),
}
"""By the names of the rows."""


def measure(context: Context) -> None:
    """Hold each variant of the conversation once: in one run there are dozens of turns to compare."""
    for contender in context.durable:
        for name, variant in VARIANTS.items():
            row = f"{contender.key} {name}"
            with context.row("window", row):
                for turns in _hold(context, contender, variant):
                    run = len(context.results.row("window", row)) + 1
                    context.keep("window", row, run, {"window": context.plan.window, **values(turns)})


def _hold(context: Context, contender: Contender, variant: Variant) -> list[list[Turn]]:
    """Return the turns of each conversation."""
    plan = context.plan
    turns: list[list[Turn]] = [[] for _ in range(variant.conversations)]
    with ExitStack() as stack:
        url = stack.enter_context(context.postgres.database(contender.tables))
        ollama_port = stack.enter_context(embedded_model(plan.window, context.folder))
        server = stack.enter_context(Server(contender, url, ollama_port, context.folder))
        for number, held in itertools.product(range(1, plan.window_turns + 1), turns):
            if variant.restart and number == plan.window_turns // 2 + 1:
                os.killpg(server.pid, signal.SIGKILL)
                server = stack.enter_context(Server(contender, url, ollama_port, context.folder))
            held.append(ask(server.port, _body(context, variant, turns.index(held), number)))
    return turns


def _body(context: Context, variant: Variant, conversation: int, number: int) -> dict[str, object]:
    options = {"temperature": 0, "seed": 1, "num_predict": context.plan.window_reply}
    body: dict[str, object] = {
        "appID": f"window-{conversation}",
        "model": NAME,
        "messages": [{"role": "user", "content": prompt(number + 1000 * conversation)}],
        "stream": True,
        "options": options,
    }
    return body | {"truncate": True} if variant.cut_by_ollama else body


def values(turns: Sequence[Turn]) -> Values:
    """Return each turn's time to the first words, and what becomes of it when the window is full; in seconds.

    The window is full from the first turn on that was sent with fewer tokens than the turn before had left in it. The
    first turn is left out: it has nothing in the cache.
    """
    full = next(
        (
            number
            for number, (before, turn) in enumerate(itertools.pairwise(turns), start=2)
            if turn.prompt_tokens < before.prompt_tokens + before.reply_tokens
        ),
        0,
    )
    found: Values = {f"turn_{number}_s": turn.first for number, turn in enumerate(turns, start=1)}
    found |= {f"turn_{number}_tokens": turn.prompt_tokens for number, turn in enumerate(turns, start=1)}
    if full > 2:
        before = statistics.median(turn.first for turn in turns[1 : full - 1])
        after = [turn.first for turn in turns[full - 1 :]]
        found |= {
            "full_turn": full,
            "before_p50_s": before,
            "after_p50_s": statistics.median(after),
            "after_mean_s": statistics.mean(after),
            "after_max_s": max(after),
            "p50_ratio": statistics.median(after) / before,
            "mean_ratio": statistics.mean(after) / before,
        }
    return found
