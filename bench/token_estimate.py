"""``python -m bench.token_estimate``: measure the estimates of tokens against a real tokenizer, and how long they take.

    .venv/bin/python -m bench.token_estimate [--ollama=URL --model=NAME]

asks the embedded model, or the one that is named, for the exact number of tokens of each prompt of a few conversations,
and writes the tables of docs/context.md to stdout. The texts are those of this computer: a license, a tutorial or
translated messages in German and Chinese, source code of Tornado, a JSON file. No prompt is answered: the window is so
small that Ollama refuses it and says how many tokens it has.
"""

import argparse
import json
import re
import struct
import sys
import sysconfig
import tempfile
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from time import process_time

from tornado.httpclient import HTTPClient, HTTPRequest

from bench.errors import BenchError
from bench.servers.model import NAME, embedded_model
from db.messages import Message
from relay.ollama.upstream_error import window_figures
from relay.window.text_counts import TextCounts, count_message, count_text
from relay.window.tokens import TokenEstimator

TURNS = 10
QUESTION, ANSWER = 500, 1_500
"""Characters of the messages of one turn."""
TEXT_SIZE = TURNS * (QUESTION + ANSWER)
SMALL_WINDOW = 64
"""Tokens."""
REQUEST_TIMEOUT = 300.0
"""Seconds; a real Ollama may have to load the model."""
TIMED_BYTES = 100_000

PACKAGES = Path(sysconfig.get_paths()["purelib"])
TUTORIALS = "vim/vim*/tutor/tutor.{}.utf-8"
CATALOGUES = "locale/{}/LC_MESSAGES/*.mo"

Prompt = tuple[TextCounts, int]
"""What a prompt consists of, and how many tokens it has."""


def texts() -> dict[str, str]:
    """Return a text of each kind.

    :raises BenchError: this computer has none of some kind.
    """
    return {
        "English": _long_enough("English", _files(Path("/usr/share/common-licenses"), "GPL-3")),
        "German": _long_enough("German", _translated("de", "de")),
        "Chinese": _long_enough("Chinese", _translated("zh_cn", "zh_CN")),
        "Python": _long_enough("Python", _files(PACKAGES, "tornado/web.py")),
        "JSON": _long_enough("JSON", _files(PACKAGES, "ruff-*.dist-info/sboms/*.json")),
    }


def _long_enough(kind: str, found: Iterator[str]) -> str:
    text = ""
    while len(text) < TEXT_SIZE:
        try:
            text += next(found)
        except StopIteration:
            raise BenchError(f"this computer has only {len(text):,} of {TEXT_SIZE:,} characters: {kind}") from None
    return text


def _files(folder: Path, pattern: str) -> Iterator[str]:
    for path in sorted(folder.glob(pattern)):
        yield path.read_text()


def _translated(language: str, locale: str) -> Iterator[str]:
    """Yield Vim's tutorial, if it is installed, and then the messages of all programs."""
    share = Path("/usr/share")
    yield from _files(share, TUTORIALS.format(language))
    for path in sorted(share.glob(CATALOGUES.format(locale))):
        yield messages_of(path.read_bytes())


def messages_of(catalogue: bytes) -> str:
    """Return the translations in a .mo file (GNU gettext manual, section 10.3)."""
    order = "<" if catalogue.startswith(b"\xde\x12\x04\x95") else ">"
    number, _, table = struct.unpack_from(f"{order}3I", catalogue, 8)
    places = struct.iter_unpack(f"{order}2I", catalogue[table : table + 8 * number])
    found = [catalogue[start : start + size].decode(errors="replace") for size, start in places]
    return "\n".join(text.replace("\0", "\n") for text in found[1:])  # the first is the catalogue's header


def conversation(text: str, turns: int = TURNS) -> list[list[Message]]:
    """Return the prompts of a conversation whose questions and answers are pieces of a text."""
    prompts: list[list[Message]] = []
    messages: list[Message] = []
    for turn in range(turns):
        start = turn * (QUESTION + ANSWER)
        question, answer = text[start : start + QUESTION], text[start + QUESTION : start + QUESTION + ANSWER]
        messages.append(Message("user", question))
        prompts.append(list(messages))
        messages.append(Message("assistant", answer))
    return prompts


class Tokenizer:
    """Counts the tokens of prompts.

    :param url: of an Ollama.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self._model = model
        self._client = HTTPClient()

    def count(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a prompt.

        :raises BenchError: Ollama does not tell it.
        """
        body = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "stream": False,
            "truncate": False,
            "options": {"num_ctx": SMALL_WINDOW, "num_predict": 1},
        }
        request = HTTPRequest(
            f"{self._url}/api/chat", method="POST", body=json.dumps(body), request_timeout=REQUEST_TIMEOUT
        )
        answer = self._client.fetch(request, raise_error=False).body
        if figures := window_figures(answer):
            return figures[0]
        # The answer to a prompt that fits after all tells it, too.
        if found := re.search(rb'"prompt_eval_count": *(\d+)', answer):
            return int(found[1])
        raise BenchError(f"{self._url} does not tell how many tokens a prompt has: {answer.decode(errors='replace')}")

    def prompts(self, conversation: Sequence[Sequence[Message]]) -> list[Prompt]:
        """Count the prompts of a conversation."""
        return [(sum(map(count_message, messages), TextCounts()), self.count(messages)) for messages in conversation]


def learn(estimator: TokenEstimator, prompts: Sequence[Prompt]) -> list[float]:
    """Return the errors of the estimates of prompts, each of which is learned after its estimate, as shares."""
    errors = []
    for counts, number in prompts:
        errors.append(estimator.estimate(counts) / number - 1)
        estimator.learn(counts, number)
    return errors


def describe_conversations(conversations: Mapping[str, Sequence[Prompt]]) -> Iterator[str]:
    """Yield the table of conversations that each have an estimator of their own."""
    turns = (1, 2, 3, 5, 10)
    yield f"| text | tokens | defaults | {' | '.join(f'turn {turn}' for turn in turns)} |"
    yield "|---|--:|--:|" + "--:|" * len(turns)
    for kind, prompts in conversations.items():
        counts, number = prompts[-1]
        errors = [TokenEstimator().estimate(counts) / number - 1]
        learned = learn(TokenEstimator(), prompts)
        errors += [learned[turn - 1] for turn in turns]
        yield f"| {kind} | {number:,} | {' | '.join(f'{error:+.1%}' for error in errors)} |"


def describe_mixtures(conversations: Mapping[str, Sequence[Prompt]], changing: Sequence[Prompt]) -> Iterator[str]:
    """Yield the table of what one estimator learns from several texts."""
    errors = list(map(abs, learn(TokenEstimator(), changing)))
    by_turns = [prompt for prompts in zip(*conversations.values(), strict=True) for prompt in prompts]
    five = list(map(abs, learn(TokenEstimator(), by_turns)))
    one_by_one = [prompt for prompts in conversations.values() for prompt in prompts]
    after = list(map(abs, learn(TokenEstimator(), one_by_one)))
    yield "| what one estimator sees | mean error | largest |"
    yield "|---|--:|--:|"
    for name, part in {
        "English, then Chinese, then Python in one conversation: the two turns of a change": errors[5:11:5],
        "its other turns from the 3rd on": [*errors[2:5], *errors[6:10], *errors[11:]],
        "five conversations by turns, one of each text, from the 5th turn on": five[20:],
        "five conversations one after the other: the first two turns of the later ones": [
            error for start in range(TURNS, len(after), TURNS) for error in after[start : start + 2]
        ],
        "their other turns": [
            error for start in range(0, len(after), TURNS) for error in after[start + 2 : start + TURNS]
        ],
    }.items():
        yield f"| {name} | {fmean(part):.1%} | {max(part):.1%} |"


def describe_times(found: Mapping[str, str]) -> Iterator[str]:
    """Yield the CPU time of counting and estimating."""
    for kind, text in found.items():
        data = (text.encode() * (1 + TIMED_BYTES // len(text)))[:TIMED_BYTES].decode(errors="ignore")
        yield f"{kind}: {_microseconds(partial(count_text, data)):.0f} µs for {TIMED_BYTES:,} bytes"
    estimator, counts = TokenEstimator(), count_message(Message("user", found["English"]))
    yield f"an estimate: {_microseconds(partial(estimator.estimate, counts)):.1f} µs"
    yield f"an observation: {_microseconds(partial(estimator.learn, counts, 8_000)):.0f} µs"


def _microseconds(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, timer=process_time, number=5, repeat=50)) / 5 * 1e6


@contextmanager
def ollama(url: str | None = None) -> Iterator[str]:
    """Return the URL of an Ollama for the block: the one that is named, or the embedded model.

    :raises BenchError: it does not start.
    """
    if url:
        yield url.rstrip("/")
        return
    with tempfile.TemporaryDirectory() as folder, embedded_model(SMALL_WINDOW, Path(folder)) as port:
        yield f"http://127.0.0.1:{port}"


def measure(tokenizer: Tokenizer, found: Mapping[str, str]) -> tuple[dict[str, list[Prompt]], list[Prompt]]:
    """Return the prompts of a conversation of each text, and of one that changes from text to text.

    :raises BenchError: Ollama does not tell how many tokens a prompt has.
    """
    changing = "".join(found[kind][: TEXT_SIZE // 2] for kind in ("English", "Chinese", "Python"))
    conversations = {kind: tokenizer.prompts(conversation(text)) for kind, text in found.items()}
    return conversations, tokenizer.prompts(conversation(changing, 3 * TURNS // 2))


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.token_estimate", description="Measure token estimates.")
    parser.add_argument("--ollama", help="URL; default: the embedded model")
    parser.add_argument("--model", default=NAME)
    options = parser.parse_args()
    try:
        found = texts()
        with ollama(options.ollama) as url:
            conversations, changing = measure(Tokenizer(url, options.model), found)
    except (BenchError, OSError) as error:
        sys.exit(f"bench: {error}")
    lines = [*describe_conversations(conversations), "", *describe_mixtures(conversations, changing), ""]
    print("\n".join([*lines, *describe_times(found)]))


if __name__ == "__main__":
    main()
