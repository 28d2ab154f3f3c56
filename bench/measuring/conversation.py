"""One conversation with a server under test, turn by turn: when the first words come, and what the model had read."""

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError

TURN_TIMEOUT = 600.0
"""Seconds between two lines of a reply: a whole window takes seconds, on a busy machine minutes."""

SENTENCES = (
    "The Red Swan left the harbour before dawn with a crew of twelve, a hold full of oranges and a captain who had "
    "never lost a ship.",
    "On the third day the wind turned north, the sails tore along the seam, and the carpenter worked through the "
    "night to mend them.",
    "A letter was found below the deck, written in a careful hand, that named an island which no chart in the cabin "
    "had.",
    "The cook, who had sailed these waters as a boy, remembered a white rock with a spring of sweet water beneath it.",
    "They took soundings every hour, wrote the depth in the log, and argued in low voices about the reef ahead of "
    "them.",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What was measured of one prompt and its reply.

    :param first: seconds from the request to the first words at the client.
    :param prompt_tokens: tokens that the model was sent, cached ones included, as Ollama counts them.
    :param reply_tokens: tokens of the reply.
    """

    first: float
    prompt_tokens: int
    reply_tokens: int


def prompt(turn: int) -> str:
    """Return what the user says in a turn, about 60 tokens."""
    one, two = SENTENCES[turn % len(SENTENCES)], SENTENCES[(turn + 2) % len(SENTENCES)]
    return f"Part {turn} of the story. {one} {two} What happens next?"


def ask(port: int, body: dict[str, Any]) -> Turn:
    """Send a prompt to chatterd and read the reply to its end.

    :raises BenchError: the reply ended in an error, or without an end.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TURN_TIMEOUT)
    began = time.perf_counter()
    first = 0.0
    try:
        connection.request("POST", "/llmchat", json.dumps(body), {"Content-Type": "application/json"})
        for line in _lines(connection.getresponse()):
            if not first and (line["done"] or line["message"]["content"]):
                first = time.perf_counter() - began
            if line["done"]:
                return Turn(first, line["prompt_eval_count"], line.get("eval_count", 0))
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise BenchError(f"a turn failed: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    raise BenchError("a reply ended without an end")


def _lines(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the lines of Ollama in a stream of events."""
    if response.status != 200:
        raise BenchError(f"a prompt was answered {response.status}: {response.read(500)!r}")
    failed = False
    for line in response:
        field, _, value = line.decode().strip().partition(": ")
        failed = failed or (field, value) == ("event", "error")
        if field == "data":
            if failed:
                raise BenchError(f"a reply ended in an error: {value}")
            yield json.loads(value)
