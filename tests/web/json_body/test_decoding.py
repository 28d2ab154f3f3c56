"""Decoding in slices: the same values and errors as at once, and one large body at a time."""

import asyncio
import json
import random

import msgspec
import pytest

import json_text
from errors import BadRequest, UnprocessableContent
from tests.stepping import count_pauses, finish
from web.json_body import decoding
from web.json_body.decoding import count_characters, decode_checked, decode_object, decode_text, one_at_a_time

CHARACTERS = 'aé€😀"\\\n\0\u2028 '


@pytest.fixture(params=[64, 65, 67, 90])
def small_slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "SLICE_BYTES", request.param)
    monkeypatch.setattr(decoding, "SLICE_BYTES", request.param)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("seed", range(5))
def test_a_long_text_is_decoded_in_pieces_and_counted(seed: int) -> None:
    choice = random.Random(seed)
    for _ in range(50):
        text = "".join(choice.choice(CHARACTERS) for _ in range(choice.randrange(300)))
        encoded = json.dumps(text, ensure_ascii=choice.random() < 0.5).encode()
        assert finish(decode_text(msgspec.Raw(encoded))) == text
        assert finish(count_characters(b'{"a":' + encoded + b"}")) == 1 + len(text)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("seed", range(5))
def test_the_first_invalid_byte_is_found_wherever_the_slices_end(seed: int) -> None:
    choice = random.Random(seed)
    for _ in range(100):
        body = bytearray("".join(choice.choice("aé€😀") for _ in range(150)).encode())
        body[choice.randrange(len(body))] = choice.choice(b"\x80\xbf\xc0\xe2\xf0\xffa")
        try:
            body.decode()
        except UnicodeDecodeError as error:
            with pytest.raises(BadRequest, match=f"at position {error.start}\\."):
                finish(decode_object(bytes(body), 10))


@pytest.mark.parametrize("value", [b"null", b"7", b"true", b"[1]", b'{"a":1}', b"[" + b"17e307," * 100_000 + b"1]"])
def test_another_value_than_a_text_is_not_decoded(value: bytes) -> None:
    raw = msgspec.Raw(value)
    assert finish(decode_text(raw)) == (None if value == b"null" else raw)


@pytest.mark.parametrize("body", [b'{"a":[' + b"9e307," * 240_000 + b"1]}", b'{"a":"' + b"x" * 2_000_000 + b'"}'])
def test_a_large_body_is_checked_in_slices(body: bytes) -> None:
    fields, pauses = count_pauses(decode_checked(body, 10))
    assert list(fields) == ["a"] and pauses >= 2 * len(body) / json_text.SLICE_BYTES


def test_twelve_megabytes_of_numbers_are_refused_without_decoding_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "is_number_accepted", lambda number: pytest.fail(f"looked at {number}"))
    with pytest.raises(BadRequest, match="too many values"):
        finish(decode_checked(b'{"token":[' + b"9e307," * 2_000_000 + b"1]}", 10))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"a":[[[1]]]}', BadRequest),
        (b'{"a":1e400}', UnprocessableContent),
        (b'{"a":"\\ud800"}', UnprocessableContent),
        (b'["a"]', BadRequest),
    ],
)
def test_all_values_are_checked(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        finish(decode_checked(body, 3))


def test_large_bodies_wait_for_each_other_and_small_ones_do_not() -> None:
    large, small = b'{"a":"' + b"x" * 1_000_000 + b'"}', b'{"a":1}'
    order: list[str] = []

    async def decode(lock: asyncio.Lock, name: str, body: bytes) -> None:
        async with one_at_a_time(lock, body):
            order.append(f"{name} begins")
            await decode_checked(body, 10)
            order.append(f"{name} ends")

    async def run() -> None:
        lock = asyncio.Lock()
        await asyncio.gather(decode(lock, "1", large), decode(lock, "2", large), decode(lock, "small", small))

    asyncio.run(run())
    assert order == ["1 begins", "small begins", "small ends", "1 ends", "2 begins", "2 ends"]
