"""The request to Ollama made from a prompt, and the selection of messages that fit into the context."""

import tracemalloc

import msgspec
import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from db.messages import Message
from relay.generation import prompt
from relay.generation.prompt import Prompt, chat_body, remaining_image_bytes, trim_to_context

NO_LIMIT = 1 << 30


def user(content: str) -> Message:
    return Message("user", content)


def system(content: str) -> Message:
    return Message("system", content)


roles = st.sampled_from(["system", "user", "assistant", "tool"])
extras = st.none() | st.just('{"images":["eA=="]}')
messages = st.lists(st.builds(Message, roles, st.text(max_size=12), extras), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = (st.text(max_size=6) | st.just("truncate")).filter(lambda name: name not in ("model", "messages", "appID"))


def make_prompt(options: bytes) -> Prompt:
    return Prompt("", "a", "m", [], msgspec.json.decode(options, type=dict[str, msgspec.Raw]))


@given(st.dictionaries(names, values, max_size=4), messages)
def test_request_has_the_clients_fields_and_the_messages(
    options: dict[str, object], conversation: list[Message]
) -> None:
    prompt = make_prompt(ujson.dumps(options).encode())
    encoded = prompt.chat_body(conversation)
    assert encoded == chat_body(prompt.stored_request(), conversation)
    body = ujson.loads(encoded)
    assert body.pop("model") == "m"
    assert body.pop("messages") == [
        {"role": message.role, "content": message.content} | ujson.loads(message.extra or "{}")
        for message in conversation
    ]
    if options.get("truncate") is None:  # which Ollama takes as true
        options["truncate"] = False
    assert body == options


def test_clients_fields_are_passed_on_unchanged() -> None:
    options = rb'{"options":{"seed":1e2 , "stop":["\u0000","\u00e9"]},"x":12345678901234567890123}'
    body = chat_body(make_prompt(options).stored_request(), [])
    assert rb'{"seed":1e2 , "stop":["\u0000","\u00e9"]}' in body
    assert b"12345678901234567890123" in body


def test_extra_fields_of_a_message_are_passed_on_unchanged() -> None:
    body = chat_body('{"model":"m"}', [Message("user", "é\u2028", '{"images": ["a"],"n":1.0}')])
    [message] = ujson.loads(body)["messages"]
    assert message == {"role": "user", "content": "é\u2028", "images": ["a"], "n": 1.0}
    assert b"1.0" in body


def test_the_first_request_takes_little_more_memory_than_its_bytes() -> None:
    """As a text of Python, these fields would have four times their size."""
    prompt = make_prompt(b'{"x":"%b"}' % (b"x" * 1_000_000 + "😀".encode()))
    tracemalloc.start()
    try:
        body = prompt.chat_body([user("hi")])
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
        tracemalloc.reset_peak()
        prompt.stored_request()
        assert tracemalloc.get_traced_memory()[1] > 4 * len(body)  # the measure is no idle one
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("own", "limit", "size", "selected", "remaining"),
    [
        ([], 5, 10, [], (5, 10)),
        ([user("abc")], 5, 10, [user("abc")], (4, 7)),
        ([user("abc")], 0, 0, [user("abc")], (0, 0)),
        ([user("a"), user("b")], 1, 10, [user("b")], (0, 9)),
        ([user("a"), user("bb")], 5, 2, [user("bb")], (0, 0)),
        ([user("aa"), user("bb")], 5, 4, [user("aa"), user("bb")], (3, 0)),
        ([user("a"), user("bbb"), user("c")], 5, 3, [user("c")], (0, 2)),
        ([system("s"), user("a"), user("b")], 1, 1, [system("s"), user("b")], (0, 0)),
        ([user("a"), system("s" * 100), user("b")], 2, 5, [system("s" * 100), user("b")], (0, 0)),
        ([user("é")], 5, 10, [user("é")], (4, 8)),
        ([Message("user", "a", '{"x":1}')], 5, 10, [Message("user", "a", '{"x":1}')], (4, 2)),
    ],
)
def test_newest_messages_that_fit_are_selected(
    own: list[Message], limit: int, size: int, selected: list[Message], remaining: tuple[int, int]
) -> None:
    assert trim_to_context(own, limit, size) == (selected, *remaining)


IMAGES = '{"images":["' + "A" * 2_000 + '"]}'


def test_images_of_a_prompt_count_for_themselves_and_are_always_selected() -> None:
    own = [user("a"), Message("user", "b", IMAGES), Message("tool", "c", IMAGES), Message("assistant", "d")]
    assert trim_to_context(own, 5, 10) == (own, 1, 6)
    assert remaining_image_bytes(own, 5_000) == 5_000 - 2 * len(IMAGES)
    assert remaining_image_bytes(own, 3_000) == 0


def test_short_fields_and_those_of_the_assistant_count_as_text() -> None:
    own = [Message("assistant", "a", IMAGES.replace("images", "thinking")), Message("tool", "b", '{"tool_name":"f"}')]
    assert trim_to_context(own, 5, 100) == (own[1:], 0, 82)
    assert remaining_image_bytes(own, 5_000) == 5_000


@given(messages, st.integers(0, 10), st.integers(0, 60))
def test_selection_keeps_order_newest_and_system_messages_and_limits(own: list[Message], limit: int, size: int) -> None:
    selected, messages_remaining, bytes_remaining = trim_to_context(own, limit, size)
    in_order = iter(own)
    assert all(any(one is other for other in in_order) for one in selected)
    assert selected[-1:] == own[-1:]
    system_messages = [message for message in own if message.role == "system"]
    assert [message for message in selected if message.role == "system"] == system_messages
    assert 0 <= messages_remaining <= limit and 0 <= bytes_remaining <= size
    others = [message for message in selected[:-1] if message.role != "system"]
    assert sum(len(message.content.encode()) for message in others) <= size
    assert len(others) < max(limit, 1)


@given(messages)
def test_all_messages_are_selected_without_limits(own: list[Message]) -> None:
    assert trim_to_context(own, NO_LIMIT, NO_LIMIT)[0] == own


@given(messages, st.integers(0, 10), st.integers(0, 60))
def test_no_earlier_messages_are_read_if_one_of_the_prompts_own_does_not_fit(
    own: list[Message], limit: int, size: int
) -> None:
    selected, messages_remaining, _ = prompt.trim_to_context(own, limit, size)
    if len(selected) < len(own):
        assert messages_remaining == 0
