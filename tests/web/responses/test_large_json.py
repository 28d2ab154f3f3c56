"""JSON in slices is the same JSON."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.responses.large_json import SLICE_BYTES, LargeJSON

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3) | st.tuples(inner),
)


@given(values)
def test_a_value_is_encoded_as_by_msgspec(value: object) -> None:
    assert b"".join(LargeJSON(value).slices(0)) == msgspec.json.encode(value)


@pytest.mark.parametrize("unit", ["x", '"', "\x01", "é", "€", "😀"])
def test_slices_of_long_texts_are_small_and_any_of_them_can_be_the_first(unit: str) -> None:
    value = {"a": unit * 50_000, "b": [1, unit * SLICE_BYTES], "c": msgspec.Raw(b"[%b]" % (b"1," * 20_000 + b"1"))}
    large = LargeJSON(value)
    slices = list(large.slices(0))
    assert b"".join(slices) == msgspec.json.encode(value)
    assert max(map(len, slices)) <= 6 * SLICE_BYTES
    for first in (1, 5, len(slices) - 1, len(slices)):
        assert list(large.slices(first)) == slices[first:]


def test_equal_values_have_equal_checksums() -> None:
    def checksum(text: str, raw: bytes) -> int:
        return LargeJSON({"content": text * 10_000, "images": msgspec.Raw(raw)}).checksum

    assert checksum("é", b"[1]") == checksum("é", b"[1]")
    assert len({checksum(text, raw) for text in ("é", "e") for raw in (b"[1]", b"[2]")}) == 4


@pytest.mark.parametrize("text", ["x" * 1_000_000, "x" * 999_996 + "😀"])
def test_its_size_is_that_of_its_text_in_utf_8(text: str) -> None:
    assert LargeJSON({"a": text}).size == LargeJSON({"a": msgspec.Raw(text.encode())}).size + 2 == 1_000_008
