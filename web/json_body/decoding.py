"""Decoding and checking of JSON bodies. What is only passed on stays text (``msgspec.Raw``)."""

import asyncio
import codecs
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import msgspec

from errors import BadRequest, UnprocessableContent
from json_text import (
    MAX_NUMBER_LENGTH,
    SLICE_BYTES,
    character_start,
    count_tokens,
    depths,
    has_refused_number,
    is_number_accepted,
    pause,
    slices,
    string_pieces,
)
from web.json_body import reasons

MAX_JSON_TOKENS = 500_000
"""Strings, brackets and commas of a body: they, not its size, determine the memory of the decoded value."""

Fields = dict[str, msgspec.Raw]

_decode_object = msgspec.json.Decoder(Fields).decode
_decode_text = msgspec.json.Decoder(str | None).decode
_decode_texts = msgspec.json.Decoder(list[str]).decode


def one_at_a_time(lock: asyncio.Lock, body: bytes) -> AbstractAsyncContextManager[Any]:
    """Let the large bodies of a process wait for each other: in one turn of the event loop one slice is processed.

    :param lock: the same for all bodies.
    """
    return lock if len(body) > SLICE_BYTES else nullcontext()


async def decode_object(body: bytes, max_depth: int) -> Fields:
    """Decode a JSON object. Its values remain text, of which only the syntax was checked; see :func:`check_values`.

    Of a field that is there twice the last one counts.

    :param max_depth: levels of nesting at most, for the error.
    :raises BadRequest: it is not a JSON object in UTF-8 (RFC 8259, section 8.1), is nested too deeply or has too many
        values; the sentence says why, and where.
    :raises UnprocessableContent: a text contains half of a surrogate pair, which RFC 8259 allows and UTF-8 cannot
        express; the sentence names the field.
    """
    body = body.removeprefix(codecs.BOM_UTF8)  # which RFC 8259 lets a receiver ignore, and editors on Windows write
    await _check_encoding(body)
    if len(body) > MAX_JSON_TOKENS:
        await _check_token_count(body)
    try:
        fields = _decode_object(body)
    except msgspec.ValidationError as error:
        raise BadRequest("The body must be a JSON object.") from error
    except msgspec.DecodeError as error:
        raise await reasons.explain(body, str(error)) from error
    except RecursionError as error:
        raise _too_deep(max_depth) from error
    await pause(body)
    return fields


async def decode_checked(body: bytes, max_depth: int) -> Fields:
    """Decode a JSON object and check all its values.

    :raises BadRequest, UnprocessableContent: as :func:`decode_object` and :func:`check_values`.
    """
    fields = await decode_object(body, max_depth)
    await check_values(body, max_depth)
    return fields


async def _check_encoding(body: bytes) -> None:
    """Check that the body is UTF-8, which msgspec does not do for what it returns as ``msgspec.Raw``."""
    start = 0
    while start < len(body):
        end = character_start(body, min(start + SLICE_BYTES, len(body)))
        try:
            body[start:end].decode()
        except UnicodeDecodeError as error:
            raise BadRequest(reasons.why_not_utf8(body, start + error.start)) from error
        start = end
        await pause(body)


async def _check_token_count(body: bytes) -> None:
    count = 0
    for outline, _ in slices(body):
        count += count_tokens(outline)
        if count > MAX_JSON_TOKENS:
            raise BadRequest("The body has too many values. Send it in parts.")
        await pause(body)


async def check_values(text: bytes, max_depth: int, where: str = "") -> None:
    """Check values that are not decoded.

    :param text: a JSON object.
    :param max_depth: levels of nesting at most, the object's own included.
    :param where: path of the object with a dot behind it, for the error.
    :raises BadRequest: they are nested too deeply.
    :raises UnprocessableContent: a number is not accepted; see :func:`json_text.is_number_accepted`.
    """
    depth = 0
    for outline, _ in slices(text):
        depth, greatest = depths(outline, depth)
        if greatest > max_depth:
            raise _too_deep(max_depth)
        if has_refused_number(outline):
            field = await reasons.find_path(text, _is_refused_number)
            raise UnprocessableContent(
                f"{where}{field} is a number out of range: numbers have at most {MAX_NUMBER_LENGTH} characters and lie "
                "between -1.8e308 and 1.8e308. Send it as a text."
            )
        await pause(text)


def _is_refused_number(token: bytes) -> bool:
    return not token.startswith(b'"') and not is_number_accepted(token)


def _too_deep(max_depth: int) -> BadRequest:
    return BadRequest(f"The body is nested too deeply: at most {max_depth} levels are allowed.")


async def decode_text(raw: msgspec.Raw | None) -> object:
    """Decode a string or null; return another value as it is, and None if there is none."""
    if raw is None:
        return None
    if memoryview(raw).nbytes > SLICE_BYTES:
        return await _decode_long_text(raw)
    try:
        return _decode_text(raw)
    except msgspec.ValidationError:
        return raw


async def _decode_long_text(raw: msgspec.Raw) -> object:
    text = bytes(raw)
    if not text.startswith(b'"'):
        return raw
    pieces = []
    for piece in string_pieces(text):
        pieces.append(_decode_text(piece) or "")
        await pause(text)
    return "".join(pieces)


async def count_characters(text: bytes, images: Iterable[msgspec.Raw] = ()) -> int:
    """Count the characters of all strings of valid JSON, names of fields included.

    :param images: parts of the text that do not count if they are lists of strings, as images in base64 are.
    """
    count = 0
    for _, strings in slices(text):
        count += sum(map(len, _decode_texts(b"[%b]" % b",".join(strings))))
        await pause(text)
    for value in images:
        inner = bytes(value)
        if await _is_list_of_strings(inner):
            count -= await count_characters(inner)
    return count


async def _is_list_of_strings(text: bytes) -> bool:
    depth = 0
    if not text.startswith(b"["):
        return False
    for outline, _ in slices(text):
        depth, greatest = depths(outline, depth)
        if greatest > 1 or outline.translate(None, b'[]", \t\r\n'):
            return False
        await pause(text)
    return True
