"""The bodies of the API as trees, with values of the grammar in any of their places. Without I/O."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.hostile.grammar.values import KINDS, SIZED, some, text

BLANKS = (b" ", b"\n", b"\t", b"\r\n", b"  ", b"\r")
"""White space of JSON (RFC 8259, section 2)."""

NO_BLANKS = (b"\x0b", b"\xc2\xa0", b"\x00", b"/**/", b"\xef\xbb\xbf")
"""What is not."""


@dataclass
class Object:
    """An object of JSON: names, in quotes, and values; a name may be there more than once."""

    pairs: list[tuple[bytes, "Node"]]


@dataclass
class Array:
    """A list of JSON."""

    items: list["Node"]


Node = Object | Array | bytes
"""A value; a scalar as it is written."""


def tree(value: Any) -> Node:
    """Return a value as a tree."""
    if isinstance(value, dict):
        return Object([(json.dumps(name).encode(), tree(one)) for name, one in value.items()])
    if isinstance(value, list):
        return Array([tree(one) for one in value])
    return json.dumps(value).encode()


Place = tuple[Object | Array, int]
"""A value within its object or list."""


def places(node: Node) -> list[Place]:
    """Return all places of a tree, in the order in which they are written."""
    if isinstance(node, bytes):
        return []
    inner = [value for _, value in node.pairs] if isinstance(node, Object) else node.items
    return [place for number, one in enumerate(inner) for place in ((node, number), *places(one))]


def put(chance: random.Random, place: Place, value: bytes, name: bytes) -> None:
    """Put a value at a place: instead of what is there, beside it, or under its name a second time.

    :param name: a string, sometimes put in place of the name.
    """
    container, at = place
    way = chance.choices(["instead", "twice", "beside", "name"], [10, 2, 2, 1])[0]
    later = chance.randrange(2)
    if isinstance(container, Array):
        if way == "instead":
            container.items[at] = value
        else:
            container.items.insert(at + later, value)
        return
    old, kept = container.pairs[at]
    if way == "instead":
        container.pairs[at] = old, value
    elif way == "name":
        container.pairs[at] = name, kept
    else:
        container.pairs.insert(at + later, (old if way == "twice" else name, value))


def write(chance: random.Random, node: Node, blanks: float) -> bytes:
    """Write a tree.

    :param blanks: the probability of white space at each place where it is allowed.
    """

    def blank() -> bytes:
        return chance.choice(BLANKS) * some(chance, 20) if blanks and chance.random() < blanks else b""

    def put_down(one: Node) -> bytes:
        if isinstance(one, bytes):
            return one
        if isinstance(one, Array):
            parts = [blank() + put_down(item) + blank() for item in one.items]
            return b"[" + b",".join(parts) + b"]"
        parts = [blank() + name + blank() + b":" + blank() + put_down(value) + blank() for name, value in one.pairs]
        return b"{" + b",".join(parts) + b"}"

    return blank() + put_down(node) + blank()


def spoil(chance: random.Random, body: bytes) -> bytes:
    """Change the bytes around a body, or cut it anywhere."""
    way = chance.randrange(7)
    if way == 0:
        return body[: chance.randrange(len(body) + 1)]
    if way == 1:
        return body[chance.randrange(len(body) + 1) :]
    if way == 2:
        return body + chance.choice([b"{}", b"\x00", b"]", b"}", b",", b"x", body[:1_000], *NO_BLANKS, b" " * 1_000])
    if way == 3:
        return chance.choice([*NO_BLANKS, *BLANKS]) + body
    if way == 4:
        return body.decode("latin-1").encode(chance.choice(["utf-16", "utf-16-le", "utf-32"]))
    at = chance.randrange(len(body) + 1)
    if way == 5:
        return body[:at] + chance.choice([*NO_BLANKS, b'"', b"\\", b"[", b"\xff", b"\xed\xa0\x80"]) + body[at:]
    return chance.choice([b"", b" ", b"null", b"[]", b'""', b"0", b"[" + body + b"]"])


USUAL = 2_000
"""Bytes above which a value is large; there is one such value in a body at most."""

IMAGE = "aGVsbG8="
"""Some bytes in base64."""

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}


def prompt(appid: str) -> dict[str, Any]:
    """Return a prompt with all fields that chatterd or Ollama reads (Ollama's api/types.go)."""
    return {
        "appID": appid,
        "model": "fake",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "look", "images": [IMAGE]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "t",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": [0.5]}}}],
            },
            {"role": "tool", "content": "1", "tool_name": "f"},
            {"role": "user", "content": "hi", "x": {"y": 1}},
        ],
        "options": {"temperature": 0.5, "stop": ["x"], "seed": 1, "num_predict": 5},
        "format": {"type": "object", "properties": {}},
        "tools": [{"type": "function", "function": FUNCTION}],
        "keep_alive": "5m",
        "think": False,
        "stream": True,
        "x": {"y": [1]},
    }


def bodies(appid: str, token: str) -> Mapping[str, dict[str, Any]]:
    """Return a body of each route that takes one."""
    whole = prompt(appid)
    short = {name: whole[name] for name in ("appID", "model", "stream")}
    return {
        "/llmchat": whole,
        "/llmchat short": {**short, "messages": [{"role": "user", "content": "hi", "images": [IMAGE]}]},
        "/llmprep": {**short, "messages": whole["messages"][:2]},
        "/postchatt": {"name": "fuzz", "username": "fuzz", "message": "hi"},
        "/sign-in": {"token": token},
        "/llmprompt": {
            "model": "fake",
            "prompt": "hi",
            "suffix": "",
            "system": "s",
            "template": "t",
            "context": [1, 2],
            "raw": False,
            "images": [IMAGE],
            **{name: whole[name] for name in ("options", "format", "keep_alive", "think", "stream", "x")},
        },
    }


NAMES = tuple(bodies("", ""))


def body(chance: random.Random, name: str, appid: str, token: str, size: int, first: tuple[str, int] | None) -> bytes:
    """Write a body.

    :param name: of the body, as in :data:`NAMES`.
    :param size: bytes of each value of the grammar at most.
    :param first: the kind of a value and the number of its place, if they are given.
    """
    root = tree(bodies(appid, token)[name])
    count = chance.choices([0, 1, 2, 4], [3, 12, 3, 1])[0]
    put_where = [first] if first else []
    if size > USUAL:
        put_where = [(chance.choice(SIZED), first[1] if first else chance.randrange(1_000))]
    put_where += [(chance.choice([*KINDS]), chance.randrange(1_000)) for _ in range(count - len(put_where))]
    for kind, number in put_where:
        found = places(root)
        put(chance, found[number % len(found)], KINDS[kind](chance, size), text(chance, min(size, 200_000)))
        size = min(size, USUAL)
    written = write(chance, root, chance.choices([0.0, 0.3], [9, 1])[0])
    return spoil(chance, written) if chance.random() < 0.05 else written
