"""Requests of the grammar for every route and method, several of them on one connection. Without I/O."""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from urllib.parse import quote_from_bytes
from uuid import UUID

from tests.hostile.grammar.bodies import NAMES, USUAL, bodies, body, places, tree
from tests.hostile.grammar.values import CHARACTERS, KINDS, some, text
from tests.hostile.request import JSON, Request, chunked
from tests.program import ROOT

DOCUMENT: Mapping[str, Any] = json.loads((ROOT / "static" / "openapi.json").read_text())

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

OPERATIONS = tuple(
    (path, method.upper()) for path, item in DOCUMENT["paths"].items() for method in item if method.upper() in METHODS
)
"""All documented routes and methods."""

CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

ENDLESS = "/status/events"
"""A stream without end; its client leaves."""

CONVERSATIONS = 40
"""Conversations that many attempts share: what one of them has recorded, others read, continue and forget."""

LARGE = 500_000
"""Bytes of a request above which it is sent while few others of its kind are."""

PLAN = tuple(
    (name, kind, number)
    for name in NAMES
    for kind, number in product(KINDS, range(len(places(tree(bodies("", "")[name])))))
)
"""Each kind of value at each place of each body: attempts take them in an order of their own."""


@dataclass
class Call:
    """One request.

    :ivar path: the route as the document has it; None if it has none.
    :ivar expects: it waits for permission to send its body (RFC 9110, section 10.1.1).
    """

    path: str | None
    request: Request
    expects: bool = False

    @property
    def method(self) -> str:
        return self.request.method.decode()

    @property
    def is_malformed(self) -> bool:
        """Whether a field has a control character, which is no HTTP (RFC 9110, section 5.5)."""
        return any(CONTROLS.search(value) for _, value in self.request.fields)

    @property
    def is_endless(self) -> bool:
        return self.path == ENDLESS and self.method == "GET"


@dataclass
class Attempt:
    """The requests of one connection.

    :ivar server: the number of the server.
    :ivar together: they are sent at once; otherwise each when the one before was answered.
    :ivar cut: bytes after which the client leaves; None: it stays.
    """

    number: int
    server: int
    calls: list[Call] = field(default_factory=list)
    together: bool = False
    cut: int | None = None

    @property
    def size(self) -> int:
        return sum(len(call.request.body) for call in self.calls)


@dataclass(frozen=True)
class Sizes:
    """Bytes of values: usually few, one time in ``rare`` up to ``most``."""

    rare: int
    most: int

    def pick(self, chance: random.Random) -> int:
        size = self.most if chance.randrange(self.rare) == 0 else USUAL
        return some(chance, size) if chance.random() < 0.3 else size


@dataclass(frozen=True)
class Known:
    """What a sender may know about a server.

    :ivar tokens: valid ones; none on a server without authentication.
    :ivar replies: paths of replies that exist.
    """

    tokens: Sequence[str]
    replies: Sequence[str]


def attempts(seed: int, servers: Sequence[Known], sizes: Sizes, count: int) -> Iterator[Attempt]:
    """Make attempts with ``count`` requests in all."""
    plan = list(PLAN)
    random.Random(seed).shuffle(plan)
    number = made = 0
    while made < count:
        chance = random.Random(f"{seed}-{number}")
        one = Attempt(number, number % len(servers))
        maker = _Maker(chance, seed, number, servers[one.server], sizes)
        for at in range(min(chance.choice([1, 1, 1, 2, 3]), count - made)):
            one.calls.append(maker.call(plan[(number * 3 + at) % len(plan)]))
            if one.calls[-1].is_endless:
                break
        one.together = chance.random() < 0.4 and not any(call.expects for call in one.calls)
        if chance.random() < 0.02:
            one.cut = some(chance, 2_000)
        for call in one.calls[-1:]:
            call.request.set(b"Connection", b"close")
        made += len(one.calls)
        number += 1
        yield one


class _Maker:
    """Makes the requests of one attempt."""

    def __init__(self, chance: random.Random, seed: int, number: int, known: Known, sizes: Sizes) -> None:
        shared = chance.random() < 0.6
        self._appid = f"grammar-{chance.randrange(CONVERSATIONS)}" if shared else f"grammar-{seed}-{number}"
        self._chance = chance
        self._known = known
        self._sizes = sizes

    def call(self, planned: tuple[str, str, int]) -> Call:
        """Make a request: two of three have a body of the plan, others are of any documented or other operation."""
        chance = self._chance
        if chance.random() < 0.66:
            name, kind, place = planned
            path = name.partition(" ")[0]
            call = Call(path, Request(b"POST", path.encode(), [JSON]))
            call.request.body = self._body(name, (kind, place))
        else:
            path, method = chance.choice(OPERATIONS)
            if chance.random() < 0.15:
                method = chance.choice(METHODS)
            call = Call(path, Request(method.encode(), self._target(path)))
            if call.is_endless:
                self._dress(call.request)
                return call
            if chance.random() < (0.9 if method in ("POST", "PUT", "PATCH") else 0.1):
                call.request.fields.append(JSON)
                call.request.body = self._body(chance.choice(NAMES), None)
            if chance.random() < 0.03:
                call.path, call.request.target = None, b"/nothing" + self._part()
        self._dress(call.request)
        self._frame(call)
        return call

    def _body(self, name: str, first: tuple[str, int] | None) -> bytes:
        token = self._chance.choice([*self._known.tokens, "wrong"])
        return body(self._chance, name, self._appid, token, self._sizes.pick(self._chance), first)

    def _target(self, path: str) -> bytes:
        chance = self._chance
        reply = chance.choice([*self._known.replies, f"/llmchat/{UUID(int=0)}"]).rpartition("/")[2].encode()
        target = path.encode()
        target = target.replace(b"{replyId}", reply if chance.random() < 0.7 else self._part() or b"x")
        target = target.replace(b"{file}", b"openapi.json" if chance.random() < 0.5 else self._part() or b"x")
        arguments = []
        if path == "/llmchat" or chance.random() < 0.2:
            arguments.append(b"appID=" + (self._appid.encode() if chance.random() < 0.8 else self._part()))
            for name in (b"limit", b"before", b"from", b"lastEventId", b"x"):
                if chance.random() < 0.15:
                    arguments.append(name + b"=" + chance.choice([b"1", b"500", b"%d" % 10**17, self._part()]))
        return target + (b"?" + b"&".join(arguments) if arguments else b"")

    def _part(self) -> bytes:
        """Return a value of the grammar, quoted for a URL."""
        chance = self._chance
        piece = chance.choice([*(one for group in CHARACTERS.values() for one in group), b"-1", b"1e3", b"9" * 400])
        return quote_from_bytes(piece * some(chance, 100), safe="").encode()

    def _dress(self, request: Request) -> None:
        """Add fields: credentials, and some that the server reads, with any value."""
        chance = self._chance
        if self._known.tokens and chance.random() < 0.8:
            request.set(b"Authorization", b"Bearer " + chance.choice(self._known.tokens).encode())
        elif chance.random() < 0.5:
            request.set(
                chance.choice([b"Authorization", b"Cookie"]), self._value(b"Bearer chatterd_wrong", b"chatterd=1|x")
            )
        for name, valid in (
            (b"Last-Event-ID", b"0"),
            (b"Idempotency-Key", b"%d" % chance.randrange(5)),
            (b"Prefer", b"respond-async"),
            (b"Content-Type", b"application/json; charset=utf-8"),
            (b"X-Request-ID", b"grammar"),
            (b"If-None-Match", b"*"),
            (b"Accept-Encoding", b"gzip"),
            (b"Content-Encoding", b"identity"),
            (b"Origin", b"https://x.example"),
            (b"X-Forwarded-For", b"10.0.0.1"),
            (b"Accept", b"text/html"),
            (b"Range", b"bytes=0-"),
        ):
            if chance.random() < 0.03:
                request.set(name, self._value(valid))

    def _value(self, *valid: bytes) -> bytes:
        """Return the value of a field: valid, or a string of the grammar on one line."""
        chance = self._chance
        if chance.random() < 0.5:
            return chance.choice(valid)
        odd = text(chance, chance.choice([10, 300, 3_000]))
        return odd.translate(None, b"\r\n" if chance.random() < 0.1 else bytes(range(32)) + b"\x7f")

    def _frame(self, call: Call) -> None:
        """Mark the end of the body: by its length, or by chunks of any size."""
        chance, request = self._chance, call.request
        if not request.body:
            return
        call.expects = chance.random() < 0.05
        if call.expects:
            request.set(b"Expect", b"100-continue")
        if chance.random() < 0.3:
            least = 1 if len(request.body) < 5_000 else 1_024
            size = least + some(chance, len(request.body))
            request.framing, request.body = "none", chunked(request.body, size)
            request.set(b"Transfer-Encoding", b"chunked")
