"""Unusual and invalid JSON: wrong types, huge numbers, deep nesting, duplicate keys, lone surrogates. Without I/O."""

import json
import random
from typing import Any

ODD: list[bytes] = [
    b"null",
    b"true",
    b"0",
    b"-0",
    b"-1",
    b"1.5",
    b"1e300",
    b"-1.5e308",
    b"123456789012345678901234567890",
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"1e99999999999",
    b"9" * 19,
    b"9" * 400,
    b"9" * 5_000,
    b"-" + b"9" * 400,
    b"0." + b"1" * 400,
    b"1" + b"0" * 200_000,
    b"01",
    b"+1",
    b".5",
    b"0x10",
    b"NaN",
    b"Infinity",
    b"[]",
    b"{}",
    b"[[]]",
    b'[{"role":"user","content":"hi"}]',
    b'{"":""}',
    b'{"a":1,"a":2}',
    b'{"\\u0000":1}',
    b'{"\\ud800":1}',
    b'""',
    b'" "',
    b'"user"',
    b'"a\\u0000b"',
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\ud83d\\ude00"',
    b'"\\ud83d"',
    b'"\\u2028\\u2029\\ufeff\\uffff"',
    b'"\xed\xa0\x80"',
    b'"\xff\xfe"',
    b'"\xc0\x80"',
    b'"\xf4\x90\x80\x80"',
    b'"a\x00b"',
    b'"a\nb"',
    b'"\\x"',
    b'"\\u12"',
    b'"',
    b'"' + b"x" * 155 + b'"',
    b'"' + b"x" * 156 + b'"',
    b'"' + b"\xf0\x9f\x98\x80" * 156 + b'"',
    b'"' + b"x" * 100_000 + b'"',
    b'"' + b"\\u0041" * 10_000 + b'"',
    b"[" * 100 + b"]" * 100,
    b"[" * 900 + b"]" * 900,
    b"[" * 5_000 + b"]" * 5_000,
    b"[" * 100_000,
    b'{"a":' * 400 + b"1" + b"}" * 400,
    b'{"a":' * 20_000,
    b"[" + b"0," * 20_000 + b"0]",
    b"{" + b",".join(b'"%d":0' % number for number in range(5_000)) + b"}",
    b'"2026-01-01"',
    b'"../../etc/passwd"',
    b'"\'; DROP TABLE chatts; --"',
    b"",
    b",",
    b"nul",
    b"/* */ 1",
]
"""Values to insert in place of others."""


class Raw:
    """A part of a value that is written as exactly these bytes."""

    def __init__(self, text: bytes) -> None:
        self.text = text


def write(value: Any, doubled: Any = None) -> bytes:
    """Write JSON; the object ``doubled`` gets each of its keys twice."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        pairs = [json.dumps(key).encode() + b":" + write(one, doubled) for key, one in value.items()]
        return b"{" + b",".join(pairs * (2 if value is doubled else 1)) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(write(one, doubled) for one in value) + b"]"
    return json.dumps(value, ensure_ascii=False).encode()


def mutated(chance: random.Random, value: Any) -> bytes:
    """Write ``value`` with unusual parts in one or a few places."""
    places = _places(value)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        container, key = chance.choice(places)
        kind = chance.randrange(10)
        if kind == 0 and isinstance(container, dict):
            container.pop(key, None)
        elif kind == 1 and isinstance(container, dict):
            container[chance.choice(["", "\0", "model", "stream", "appid", "\u2028", "x" * 1_000])] = Raw(_odd(chance))
        elif kind == 2:
            return write(value, container)
        elif isinstance(container, dict) or key < len(container):
            container[key] = Raw(_odd(chance))
    return write(value)


def _odd(chance: random.Random) -> bytes:
    return chance.choice(ODD)


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]
