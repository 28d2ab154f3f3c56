"""The estimates of tokens against the tokenizer of the embedded model."""

import struct

import pytest

from bench.servers.model import NAME
from bench.token_estimate import Tokenizer, conversation, learn, messages_of, ollama, texts
from relay.window.tokens import TokenEstimator


@pytest.mark.extended
def test_the_error_after_ten_turns_is_below_5_percent() -> None:
    found = texts()
    with ollama() as url:
        tokenizer = Tokenizer(url, NAME)
        for kind in found:
            prompts = tokenizer.prompts(conversation(found[kind]))
            assert len(prompts) == 10
            errors = learn(TokenEstimator(), prompts)
            assert abs(errors[-1]) < 0.05, (kind, errors)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_translations_in_a_catalogue_are_read(order: str) -> None:
    translations = [b"Language: de", b"Hallo", "Ärger\0Ärgernisse".encode()]
    table, text = 28, 28 + 8 * len(translations)
    places = b""
    for translation in translations:
        places += struct.pack(f"{order}2I", len(translation), text)
        text += len(translation) + 1
    header = struct.pack(f"{order}7I", 0x950412DE, 0, len(translations), 0, table, 0, 0)
    catalogue = header + places + b"\0".join(translations) + b"\0"
    assert messages_of(catalogue) == "Hallo\nÄrger\nÄrgernisse"
