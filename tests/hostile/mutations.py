"""Mutate valid requests into invalid ones. Without I/O: a seed reproduces its attempts."""

import gzip
import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.hostile.odd_json import ODD
from tests.hostile.request import JSON, Request, chunked
from tests.hostile.requests import any_request, ask, forged, last

Mutation = Callable[[random.Random, Request], None]

RIGHT = "right"
"""The name of a mutation that changes at most the body."""

CONTROLS = [bytes([number]) for number in (*range(9), *range(10, 32), 127)]


@dataclass(frozen=True)
class Attempt:
    """The requests of one connection.

    :ivar pieces: in so many writes.
    :ivar ending: what the client does then: ``wait`` for what the server says, ``half``-close, ``close``, ``reset``.
    :ivar methods: of the requests that are sent, as far as they are known.
    :ivar forged: it hides a request that must not be carried out: there may be one answer at most.
    """

    number: int
    name: str
    pieces: list[bytes]
    ending: str
    methods: list[bytes]
    forged: bool = False

    @property
    def last(self) -> bytes:
        """Return the request id in the answer to its last request, a valid one."""
        return b"X-Request-Id: last-%d\r\n" % self.number


def attempt(seed: int, number: int, replies: list[str]) -> Attempt:
    """Make one attempt.

    :param replies: paths of replies that exist.
    """
    chance = random.Random(f"{seed}-{number}")
    request = any_request(chance, f"fuzz-{seed}-{number}", replies)
    if chance.random() < 0.2:
        name = chance.choice([*SMUGGLING])
        SMUGGLING[name](chance, request)
        return Attempt(number, name, _cut(chance, request.data), "wait", [request.method], forged=True)
    names = [mutation.__name__ for mutation in chance.sample(HEADS, chance.choice([0, 1, 1, 2]))]
    for name in names:
        NAMED[name](chance, request)
    data = request.data
    if chance.random() < (0.25 if names else 0.5):
        mutate = chance.choice(BYTES)
        names.append(mutate.__name__)
        data = mutate(chance, data)
    ending = chance.choices(["wait", "half", "close", "reset"], [8, 1, 1, 1])[0]
    methods = [request.method]
    if ending == "wait":
        more = [b"", last(f"ahead-{number}"), ask(chance, f"fuzz-{seed}-{number}-2", replies).data][chance.randrange(3)]
        data += more.replace(b"Connection: close\r\n", b"") + last(f"last-{number}")
    return Attempt(number, "+".join(names) or RIGHT, _cut(chance, data), ending, methods)


def _cut(chance: random.Random, data: bytes) -> list[bytes]:
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice([0, 0, 0, 1, 3])))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]


# Request smuggling: two framings contradict each other, and the request hidden behind one must not be executed.


def both_lengths(chance: random.Random, request: Request) -> None:
    """The chunks end before the length does."""
    _hide(request, b"0\r\n\r\n" + forged(), (b"Transfer-Encoding", b"chunked"))


def length_in_a_chunk(chance: random.Random, request: Request) -> None:
    """The length ends before the chunks do."""
    body = chunked(forged(), 10_000)
    _hide(request, body, (b"Transfer-Encoding", b"chunked"), length=body.index(b"\r\n") + 2)


def two_lengths(chance: random.Random, request: Request) -> None:
    """Two lengths, in one field or in two."""
    lengths = [b"0", b"%d" % len(forged())]
    chance.shuffle(lengths)
    together = chance.random() < 0.5
    fields = [b", ".join(lengths)] if together else lengths
    _hide(request, forged(), *((b"Content-Length", one) for one in fields), length=None)


def odd_length(chance: random.Random, request: Request) -> None:
    """An invalid Content-Length; a parser that ignores it takes the body for a request."""
    length = b"%d" % len(forged())
    odd = [
        b"+" + length,
        b"-0",
        b"0x0",
        b"0_0",
        b"1e1",
        b"",
        b'"0"',
        length + b" 0",
        b"0;",
        b"\xb2",
        b"0.0",
        b"9" * 5_000,
    ]
    _hide(request, forged(), (b"Content-Length", chance.choice(odd)), length=None)


def odd_encoding(chance: random.Random, request: Request) -> None:
    """A Transfer-Encoding that only some parsers read as chunked."""
    odd = [
        b"xchunked",
        b"chunked, identity",
        b"identity",
        b"identity, chunked",
        b"gzip, chunked",
        b"chunked, chunked",
        b"chunked;q=1",
        b'"chunked"',
        b"chunked\x00",
        b"\x0bchunked",
        b"chunked\x0b",
        b"chun\nked",
        b"\xa0chunked",
        b",chunked",
        b"chunked,",
    ]
    _hide(request, b"0\r\n\r\n" + forged(), (b"Transfer-Encoding", chance.choice(odd)))


def encoding_twice(chance: random.Random, request: Request) -> None:
    """Two codings, one of them unknown."""
    both = [(b"Transfer-Encoding", b"chunked"), (b"Transfer-encoding", chance.choice([b"x", b"identity", b"chunked"]))]
    chance.shuffle(both)
    _hide(request, b"0\r\n\r\n" + forged(), *both, length=chance.choice([None, -1]))


def odd_name_of_the_encoding(chance: random.Random, request: Request) -> None:
    """A field name that only some parsers read as Transfer-Encoding."""
    odd = [
        b"Transfer-Encoding ",
        b"Transfer-Encoding\t",
        b" Transfer-Encoding",
        b"Transfer_Encoding",
        b"Transfer-Encoding\x00",
        b"Transfer-\xadEncoding",
        b"X: y\n Transfer-Encoding",
        b"X: y\rTransfer-Encoding",
        b"X:\n\tTransfer-Encoding",
        b"Transfer-Encoding:",
        b"TransferEncoding",
    ]
    _hide(request, b"0\r\n\r\n" + forged(), (chance.choice(odd), b"chunked"))


def encoding_in_http_1_0(chance: random.Random, request: Request) -> None:
    """Chunks in HTTP/1.0, which does not have them (RFC 9112, section 6.1)."""
    _hide(request, b"0\r\n\r\n" + forged(), (b"Transfer-Encoding", b"chunked"), length=None)
    request.version = b" HTTP/1.0"
    request.set(b"Connection", b"keep-alive")


def odd_chunks(chance: random.Random, request: Request) -> None:
    """Chunk sizes that parsers read differently."""
    size = b"%x" % len(forged())
    odd = [
        b"+0",
        b"-0",
        b"0x0",
        b"0 ",
        b" 0",
        b"0\t",
        b"0;\n",
        b"0;a=\n",
        b"0\n",
        b"0\x00",
        b"g",
        b"",
        b"0_0",
        b"\xd9\xa0",
        b"1" + b"0" * 16,
        b"f" * 16 + b"0",
        size + b";" + b"a" * 200,
        size + b"\r",
    ]
    first = chance.choice(odd)
    _hide(request, first + b"\r\n\r\n" + forged() + b"\r\n0\r\n\r\n", length=None)
    request.set(b"Transfer-Encoding", b"chunked")


def in_a_body(chance: random.Random, request: Request) -> None:
    """A forged request in a valid body."""
    _hide(request, chance.choice([b"", b"\r\n\r\n", b"0\r\n\r\n"]) + forged())


def in_a_trailer(chance: random.Random, request: Request) -> None:
    """A forged request in a trailer."""
    trailer = chance.choice([b"X: y\r\n", b"Content-Length: 0\r\n", b"\r", b"\n"])
    _hide(request, b"0\r\n" + trailer + forged(), (b"Transfer-Encoding", b"chunked"), length=None)


def in_a_field(chance: random.Random, request: Request) -> None:
    """A line terminator that only some parsers accept."""
    end = chance.choice([b"\r", b"\x00", b"\x0b", b"\x0c", b"\x85", b"\r\r\r"])
    request.framing, request.body = "none", b""
    request.fields.append((b"X", b"y" + end + end + forged().replace(b"\r\n", end)))


def behind_an_upgrade(chance: random.Random, request: Request) -> None:
    """An upgrade to an unsupported protocol, followed by a forged request."""
    _hide(request, forged(), (b"Upgrade", chance.choice([b"h2c", b"websocket"])), (b"Connection", b"Upgrade"))


def _hide(request: Request, body: bytes, *fields: tuple[bytes, bytes], length: int | None = -1) -> None:
    """Set a body that contains a forged request, and a Content-Length: the real one if negative, none if None."""
    request.framing, request.body = "none", body
    request.fields += fields
    if length is not None:
        request.fields.append((b"Content-Length", b"%d" % (len(body) if length < 0 else length)))


SMUGGLING: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        both_lengths,
        length_in_a_chunk,
        two_lengths,
        odd_length,
        odd_encoding,
        encoding_twice,
        odd_name_of_the_encoding,
        encoding_in_http_1_0,
        odd_chunks,
        in_a_body,
        in_a_trailer,
        in_a_field,
        behind_an_upgrade,
    )
}


# Unusual and invalid heads and bodies.


def odd_method(chance: random.Random, request: Request) -> None:
    odd = [b"", b"get", b"G ET", b"GET\x00", b"X" * 70_000, b"PRI", b"CONNECT", b"TRACE", b"OPTIONS", b"PUT", b"PATCH"]
    request.method = chance.choice(
        [*odd, b"POST", b"DELETE", b"GET", b"\xff", b"_", b"__init__", b"prepare", b"SEARCH"]
    )


def odd_version(chance: random.Random, request: Request) -> None:
    odd = [b"", b" ", b" HTTP/0.9", b" HTTP/1.0", b" HTTP/1.2", b" HTTP/2.0", b" HTTP/1.1x", b" http/1.1", b" HTTP/11"]
    request.version = chance.choice([*odd, b"  HTTP/1.1", b" HTTP/1.1 ", b" ICY/1.1", b"\tHTTP/1.1", b" HTTP/\xb9.1"])


def http_1_0(chance: random.Random, request: Request) -> None:
    request.version = b" HTTP/1.0"
    request.host = chance.choice([[], request.host])
    request.set(b"Connection", chance.choice([b"keep-alive", b"Keep-Alive", b"close", b"x"]))


def http_2(chance: random.Random, request: Request) -> None:
    request.method, request.target, request.version = b"PRI", b"*", b" HTTP/2.0"
    request.host, request.fields, request.framing, request.body = [], [], "none", b"SM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def whole_address(chance: random.Random, request: Request) -> None:
    """The absolute form of the target, which a server must accept (RFC 9112, section 3.2.2)."""
    odd = [b"http://x", b"https://x:443", b"http://[::1]", b"http://", b"//x", b"ftp://x", b"http://a@b", b"x:"]
    request.target = chance.choice(odd) + request.target


def odd_target(chance: random.Random, request: Request) -> None:
    odd = [
        b"*",
        b"",
        b"?",
        b"#",
        b"//",
        b"/..",
        b"/../../etc/passwd",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/static/%00",
        b"/\\",
    ]
    odd += [
        b"/static/" + b"../" * 50 + b"etc/passwd",
        b"/static/" + b"a" * 5_000,
        b"/static/openapi.json/",
        b"/llmchat//",
    ]
    odd += [
        b"/llmchat/" + b"%f0%9f%98%80" * 36,
        b"/llmchat/{" + b"0" * 32 + b"}",
        b"/" + b"a" * 60_000,
        b"/\xff\xfe",
        b"/%",
    ]
    request.target = chance.choice(
        [*odd, b"http:///", b"/status/events", b"/models?" + b"&" * 3_000, b"/" + b"a=b&" * 2_000]
    )


def odd_percents(chance: random.Random, request: Request) -> None:
    odd = b"% %0 %zz %00 %ff %ed%a0%80 %2f %2e%2e %0d%0a %u0041 %25 %E2%80%A8 %F0%9F%98%80 \xe9 + ; # ? & =".split()
    at = chance.randrange(min(1, len(request.target)), len(request.target) + 1)
    request.target = request.target[:at] + chance.choice(odd) * chance.choice([1, 1, 300]) + request.target[at:]


def odd_query(chance: random.Random, request: Request) -> None:
    names = [b"appID", b"limit", b"before", b"from", b"lastEventId", b"", b"appID[]", b"%00"]
    odd = b"-1 -0 0 1e3 1.0 0x1 %D9%A1 999999999999999999 9223372036854775808 %00 %ff true null [] a%00b x=y".split()
    values = [b"", b"9" * 400, b"9" * 5_000, b"x" * 156, b"%F0%9F%98%80" * 155, b"'--", b"%20", b"%0A", *odd]
    pairs = [chance.choice(names) + b"=" + chance.choice(values) for _ in range(chance.choice([1, 2, 5]))]
    mark = b"&" if b"?" in request.target else b"?"
    request.target += mark + b"&".join(pairs) * chance.choice([1, 1, 1, 30])


def odd_host(chance: random.Random, request: Request) -> None:
    odd = [
        b"",
        b"a, b",
        b"x:" + b"9" * 5_000,
        b"x:y",
        b"[::1]",
        b"[",
        b"a b",
        b"a\x00b",
        b"\xff",
        b"a/b",
        b"u@h",
        b"x" * 9_000,
    ]
    request.host = [(b"Host", chance.choice(odd))]
    if chance.random() < 0.3:
        request.host = chance.choice([[], request.host * 2, [(b"Host", b"a"), (b"Host", b"b")]])


def odd_field(chance: random.Random, request: Request) -> None:
    """A field that the server reads, with an invalid value."""
    names = [b"Last-Event-ID", b"Idempotency-Key", b"Content-Type", b"X-Request-ID", b"Accept-Encoding", b"Prefer"]
    names += [
        b"If-None-Match",
        b"Connection",
        b"Cookie",
        b"Authorization",
        b"Origin",
        b"X-Forwarded-For",
        b"Accept",
        b"Range",
    ]
    values = [
        b"",
        b"-1",
        b"1e3",
        b"9" * 18,
        b"9" * 19,
        b"9" * 400,
        b"9" * 5_000,
        b"0x1",
        b"\xd9\xa1",
        b"null",
        b"*",
        b",",
        b";",
    ]
    values += [
        b"a" * 255,
        b"a" * 256,
        b"a" * 60_000,
        b"\xff" * 255,
        b"\xed\xa0\x80",
        b"\xe2\x80\xa8",
        b'"',
        b'W/"',
        b"a\tb",
        b"=;",
    ]
    values += [
        b"respond-async, respond-async;x",
        b"gzip;q=,*;q=2",
        b"keep-alive, close",
        b"basic \xff",
        b"bearer " + b"." * 9_000,
    ]
    request.set(chance.choice(names), chance.choice([*values, b"a" + chance.choice(CONTROLS) + b"b"]))


def expecting(chance: random.Random, request: Request) -> None:
    request.set(
        b"Expect", chance.choice([b"100-continue", b"100-Continue", b"200-ok", b"", b"100-continue, x", b"\xff"])
    )


def upgrading(chance: random.Random, request: Request) -> None:
    request.set(b"Connection", b"Upgrade, HTTP2-Settings")
    request.set(b"Upgrade", chance.choice([b"h2c", b"websocket", b"TLS/1.0", b"\xff"]))
    request.set(b"HTTP2-Settings", b"AAMAAABkAARAAAAAAAIAAAAA")
    request.set(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")


def odd_line(chance: random.Random, request: Request) -> None:
    """A line that is not a field."""
    odd = [
        b"no colon",
        b"",
        b":",
        b": x",
        b" folded",
        b"\tfolded",
        b"a b: c",
        b"a : c",
        b"a\x00: b",
        b"a: \x00",
        b"\xff: b",
        b"(a): b",
    ]
    head, end, rest = request.head.partition(request.end)
    _as_written(request, head + end + chance.choice([*odd, b"a: " + chance.choice(CONTROLS)]) + end + rest)


def flood_of_fields(chance: random.Random, request: Request) -> None:
    kind = chance.randrange(4)
    if kind == 0:
        request.fields += [(b"X-%d" % number, b"y") for number in range(chance.choice([100, 3_000]))]
    elif kind == 1:
        request.fields += [(b"X", b"y")] * chance.choice([100, 3_000])
    elif kind == 2:
        request.fields.append((b"X" * chance.choice([1_000, 70_000]), b"y"))
    else:
        request.fields.append((b"X", b"y" * chance.choice([1_000, 64_000, 70_000, 1_000_000])))


def other_ends_of_lines(chance: random.Random, request: Request) -> None:
    request.end = chance.choice([b"\n", b"\r", b"\r\r\n", b"\n\r", b"\x0b", b"\xe2\x80\xa8", b"\x85", b"\r\n "])


def wrong_length(chance: random.Random, request: Request) -> None:
    odd = [b"-1", b"+5", b"5.0", b"0x5", b"5,5", b"5, 6"]
    near = [b"%d" % max(0, len(request.body) + more) for more in (-10, -1, 1, 10)]
    request.framing = "none"
    request.set(
        b"Content-Length",
        chance.choice([*odd, *near, b"1_0", b"", b"9" * 20, b"9" * 400, b"9" * 5_000, b"\xb2", b"5 5"]),
    )


def wrong_chunks(chance: random.Random, request: Request) -> None:
    body = chunked(request.body or b"{}", 20)
    size = body.index(b"\r\n")
    odd = [
        b"-1",
        b"+5",
        b"0x5",
        b"5 ",
        b"5;a=b",
        b"5;" + b"x" * 100,
        b"g",
        b"",
        b"f" * 17,
        b"0" * 60 + b"5",
        b"\xd9\xa3",
        b"7fffffff",
    ]
    body = chance.choice(
        [chance.choice(odd) + body[size:], body[:-2], body[:-5], body[:-2] + b"X: y\r\n\r\n", body * 2]
    )
    request.framing, request.body = "none", body
    request.set(b"Transfer-Encoding", chance.choice([b"chunked", b"Chunked"]))


def odd_body(chance: random.Random, request: Request) -> None:
    odd = [
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"\x00",
        b" \n\t ",
        b"{}{}",
        b"{}\x00",
        b"'a'",
        b"a=b&c=d",
        b"\xff" * 100,
    ]
    odd += [
        b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--x--",
        gzip.compress(b"{}"),
        b"x" * 1_000_000,
        *ODD,
    ]
    request.body = chance.choice([*odd, request.body[: chance.randrange(len(request.body) + 1)]])
    request.set(*chance.choice([JSON, JSON, JSON, (b"Content-Type", b"multipart/form-data; boundary=x")]))
    if chance.random() < 0.1:
        request.set(b"Content-Encoding", b"gzip")


def _as_written(request: Request, head: bytes) -> None:
    """Replace the head by these bytes."""
    request.method, _, rest = head.partition(b" ")
    request.target, _, rest = rest.partition(b" ")
    line, _, rest = rest.partition(request.end)
    body = request.data[len(request.head) :]
    request.version = b" " + line + request.end + rest.removesuffix(request.end * 2)
    request.host, request.fields, request.framing, request.body = [], [], "none", body


HEADS: list[Mutation] = [
    odd_method,
    odd_version,
    http_1_0,
    http_2,
    whole_address,
    odd_target,
    odd_percents,
    odd_query,
    odd_host,
    odd_field,
    odd_field,
    odd_field,
    expecting,
    upgrading,
    odd_line,
    flood_of_fields,
    other_ends_of_lines,
    wrong_length,
    wrong_chunks,
    odd_body,
    odd_body,
]
NAMED = {mutation.__name__: mutation for mutation in HEADS}


# Mutations of bytes.


def flipped(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 10])):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def with_more(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    more = chance.choice(
        [b"\x00", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\xff", chance.randbytes(20), data[at : at + 50]]
    )
    return data[:at] + more + data[at:]


def with_less(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.choice([1, 2, 20]) :]


def cut_short(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def something_before(chance: random.Random, data: bytes) -> bytes:
    return (
        chance.choice([b"\r\n", b"\n\n\n", b" ", b"\x00", b"\x16\x03\x01\x02\x00\x01\x00", b"\xef\xbb\xbf", b"A" * 100])
        + data
    )


BYTES = [flipped, with_more, with_less, cut_short, something_before]
