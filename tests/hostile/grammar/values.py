"""The kinds of JSON values, valid or not, that a sender may write. Without I/O."""

import math
import random
from collections.abc import Callable, Mapping

Maker = Callable[[random.Random, int], bytes]
"""Makes a value of at most about so many bytes."""


def some(chance: random.Random, size: int) -> int:
    """Return ``size``, or a number below it; each order of magnitude is as likely as the others."""
    return max(1, size if chance.random() < 0.2 else int(math.pow(size, chance.random())))


# Numbers.

NEAR_THE_ENDS = (b"9e307", b"17e307", b"1.7976931348623157e308", b"-1e308", b"2.2250738585072011e-308", b"4.9e-324")
"""Doubles whose decoding takes longest, or is at the ends of the range."""

BEYOND = (b"18e307", b"1.8e308", b"-1e309", b"1e400", b"1e401", b"1e9999", b"1e-325", b"1e-400", b"1e-401", b"1e-9999")

EXPONENTS = (
    b"1e-16000",
    b"1e131071",
    b"1e-16383",
    b"1e2147483648",
    b"1e-9223372036854775809",
    b"0e99999",
    b"-0e-99999",
)
"""Those at the ends of PostgreSQL's ``numeric``, of int32 and of int64."""

NO_NUMBERS = (
    b"00 -00 01 -01 1. .1 1e 1e+ +1 - -- 0x10 1_0 0b1 1e1.5 NaN -NaN Infinity -Infinity 1,5 \xd9\xa1 1\x00".split(b" ")
)


def whole(chance: random.Random, size: int) -> bytes:
    power = chance.choice([0, 7, 8, 15, 16, 31, 32, 53, 63, 64, 128, 1_023])
    return b"%d" % (chance.choice([1, -1]) * (2**power + chance.choice([-1, 0, 1])))


def zero(chance: random.Random, size: int) -> bytes:
    return chance.choice([b"0", b"-0", b"0.0", b"-0.0", b"0e0", b"0E+0", b"-0e-0", b"0." + b"0" * some(chance, size)])


def decimal(chance: random.Random, size: int) -> bytes:
    point = chance.choice([b"", b"."])
    exponent = chance.choice([b"", b"e%d" % chance.randint(-330, 310), b"E+1", b"e-05"])
    return b"%d%b%d%b" % (chance.randint(-9, 9), point, chance.randint(0, 10**17), exponent)


def extreme(chance: random.Random, size: int) -> bytes:
    return chance.choice(chance.choice([NEAR_THE_ENDS, BEYOND]))


def exponent(chance: random.Random, size: int) -> bytes:
    return chance.choice(EXPONENTS)


def digits(chance: random.Random, size: int) -> bytes:
    """A number of many digits."""
    count = chance.choice([309, 310, 399, 400, 401, 4_300, 4_301, 100_000])
    run = chance.choice([b"9", b"1", b"0"]) * min(count, size)
    return chance.choice([b"1" + run, b"-1" + run, b"0." + run, b"1." + run + b"1", b"1e" + run, b"1e-" + run])


def no_number(chance: random.Random, size: int) -> bytes:
    return chance.choice(NO_NUMBERS)


def numbers(chance: random.Random, size: int) -> bytes:
    """A list of the same number, again and again."""
    usual = [b"0", b"1.5", b"9" * 300, b"0." + b"1" * 390]
    one = chance.choice(chance.choices([NEAR_THE_ENDS, BEYOND, EXPONENTS, usual], [4, 1, 1, 1])[0])
    return b"[" + b",".join([one] * some(chance, max(1, size // (len(one) + 1)))) + b"]"


# Depth.


def deep(chance: random.Random, size: int) -> bytes:
    """From 1 to 100,000 levels of lists, objects or both."""
    opening, closing = chance.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"":', b"}]"), (b'[0,{"b":[],"a":', b"}]")])
    levels = some(chance, min(100_000, max(1, size // (len(opening) + len(closing)))))
    return opening * levels + chance.choice([b"1", b"[]", b'"x"', b"null"]) + closing * levels


def about_the_limit(chance: random.Random, size: int) -> bytes:
    """As many levels as are allowed by default, some more or less."""
    levels = 100 - chance.randrange(8) + chance.choice([0, 0, 5])
    return b"[" * levels + b"]" * levels


def unclosed(chance: random.Random, size: int) -> bytes:
    opening = chance.choice([b"[", b'{"a":', b"[[],", b'[{"a":1,"b":'])
    return opening * some(chance, min(100_000, max(1, size // len(opening))))


# Width.


def wide(chance: random.Random, size: int) -> bytes:
    one = chance.choice([b"0", b"[]", b"{}", b'""', b"null", b"true", b'"a"', b"[[]]", b'{"":""}', b'{"role":"user"}'])
    return b"[" + b",".join([one] * some(chance, max(1, size // (len(one) + 1)))) + b"]"


def many_fields(chance: random.Random, size: int) -> bytes:
    value = chance.choice([b"0", b"{}"])
    return b"{" + b",".join(b'"%x":%b' % (number, value) for number in range(some(chance, max(1, size // 10)))) + b"}"


def same_fields(chance: random.Random, size: int) -> bytes:
    """An object with one name many times, in one or several spellings."""
    names = chance.choice(
        [
            [b'"a"'],
            [b'"a"', b'"A"', b'"\\u0061"', b'"\xef\xbd\x81"'],
            [b'"\xc3\xa9"', b'"e\xcc\x81"'],
            [b'""', b'"\\u0000"', b'" "'],
            [b'"role"', b'"Role"', b'"content"', b'"CONTENT"', b'"\xc5\xbf"'],
            [b'"__proto__"', b'"constructor"', b'"__class__"'],
        ]
    )
    pairs = [chance.choice(names) + b":%d" % number for number in range(some(chance, min(1_000, max(1, size // 12))))]
    return b"{" + b",".join(pairs * some(chance, max(1, size // (12 * len(pairs))))) + b"}"


def long_name(chance: random.Random, size: int) -> bytes:
    return b"{" + text(chance, size) + b":1}"


# Strings.

CHARACTERS: Mapping[str, tuple[bytes, ...]] = {
    "plain": (b"a", b"words ", b"0", b"<b>&amp;</b>", b"';--", b"*a **a", b"data: x"),
    "escaped": (
        rb"\n",
        rb"\"",
        rb"\\",
        rb"\/",
        rb"\b\f\n\r\t",
        rb"\u0041",
        rb"\u00e9",
        rb"\u2028",
        rb"\uFFFE",
        rb"\u000a",
    ),
    "wide": ("é".encode(), "€".encode(), "😀".encode(), "\u2028\u2029\x85".encode(), "\U0010ffff".encode()),
    "directions": ("\u202e".encode(), "\u2066a\u2069".encode(), "\u200f\u200b".encode(), "שלום".encode()),
    "marks": ("a\u0301".encode(), "\u0300".encode(), "👩\u200d👧".encode(), "ﬃ".encode()),
    "order marks": ("\ufeff".encode(), rb"\ufeff", "\ufffe".encode(), "\uffff".encode()),
    "pairs": (rb"\ud83d\ude00", rb"\uD83D\uDE00", rb"\udbff\udfff"),
    "half a pair": (
        rb"\ud83d",
        rb"\ude00",
        rb"\ude00\ud83d",
        rb"\ud83d\ud83d\ude00",
        rb"\ud83dx",
        rb"\ud83d\n",
        rb"\\ud83d\ud83d",
    ),
    "half a pair, raw": (b"\xed\xa0\xbd", b"\xed\xb8\x80", b"\xed\xa0\xbd\xed\xb8\x80"),
    "NUL": (rb"\u0000", b"a\\u0000b", b"\x00"),
    "controls": (b"\n", b"\r\n", b"\t", b"\x01", b"\x1f", b"\x7f", rb"\u001b[2J", rb"\u007f"),
    "no UTF-8": (b"\xff", b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3\x28", b"\xfe\xff"),
    "too long": (b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xf0\x80\x80\x80", b"\xf8\x88\x80\x80\x80"),
    "beyond Unicode": (b"\xf4\x90\x80\x80", b"\xf7\xbf\xbf\xbf"),
    "no escapes": (rb"\x41", rb"\u12", rb"\u{41}", rb"\a", rb"\U00000041", rb"\0", rb"\uzzzz", b"\\"),
}
"""Characters of each class, as they stand between quotes."""


def text_of(name: str) -> Maker:
    """Return the maker of strings with characters of a class, the most of them at the beginning, end or everywhere."""

    def make(chance: random.Random, size: int) -> bytes:
        piece = chance.choice(CHARACTERS[name])
        filling = chance.choice([b"", b"x", "é".encode(), rb"\\", "😀".encode()])
        count = some(chance, max(1, size // max(1, len(filling))))
        shape = chance.randrange(4)
        if shape == 0:
            return b'"' + piece * some(chance, max(1, size // len(piece))) + b'"'
        if shape == 1:
            return b'"' + filling * count + piece + b'"'
        if shape == 2:
            return b'"' + piece + filling * count + b'"'
        return b'"' + piece + b'"'

    return make


def text(chance: random.Random, size: int) -> bytes:
    """A string of any class."""
    return text_of(chance.choice([*CHARACTERS]))(chance, size)


def open_text(chance: random.Random, size: int) -> bytes:
    """A string that does not end."""
    return text(chance, size)[:-1]


def texts(chance: random.Random, size: int) -> bytes:
    one = text(chance, 12)
    return b"[" + b",".join([one] * some(chance, max(1, size // (len(one) + 1)))) + b"]"


# Other types, and what is no JSON.


def other_type(chance: random.Random, size: int) -> bytes:
    odd = (
        b'null true false 0 1.5 "" " " "user" "json" [] {} [null] [[]] {"":{}} [{"role":"user","content":"hi"}] "5m" -1'
    )
    return chance.choice(odd.split(b" "))


def no_json(chance: random.Random, size: int) -> bytes:
    return chance.choice(
        [*b'undefined nul True None \'a\' a=b /*x*/1 [1,] {"a":} {a:1} {"a"1} , : ] }'.split(b" "), b""]
    )


KINDS: Mapping[str, Maker] = {
    **{maker.__name__: maker for maker in (whole, zero, decimal, extreme, exponent, digits, no_number, numbers)},
    **{maker.__name__: maker for maker in (deep, about_the_limit, unclosed, wide, many_fields, same_fields, long_name)},
    **{f"text: {name}": text_of(name) for name in CHARACTERS},
    **{maker.__name__: maker for maker in (open_text, texts, other_type, no_json)},
}
"""All kinds by name."""

SIZED: tuple[str, ...] = (
    *["numbers"] * 5,
    *("digits", "deep", "unclosed", "wide", "many_fields", "same_fields", "long_name", "texts"),
    *(name for name in KINDS if name.startswith("text: ")),
)
"""The kinds that can be large."""
