"""The result of the campaign of plain clients: each prompt and each word is compared with the conversations."""

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from tests.soak.results import Result

if TYPE_CHECKING:
    from tests.soak.plain_clients import Conversation, Post

LEAVING = 1.0
"""Seconds from the moment when a client disconnects until the server must know."""


async def judge_conversations(title: str, conversations: Sequence["Conversation"], database_url: str) -> Result:
    """Compare what the clients were shown with the replies and messages in the database."""
    connection = await asyncpg.connect(database_url)
    try:
        replies = {
            row["id"]: row
            for row in await connection.fetch(
                "SELECT id, appid, status, plain_client, extract(epoch FROM started)::float8 AS started FROM replies"
            )
        }
        rows = await connection.fetch(
            "SELECT appid, username, message FROM chatts WHERE appid IS NOT NULL ORDER BY seq"
        )
    finally:
        await connection.close()
    histories: dict[str, list[tuple[str, str]]] = {conversation.appid: [] for conversation in conversations}
    for row in rows:
        histories[row["appid"]].append((row["username"], row["message"]))
    wrong: list[str] = []
    for conversation in conversations:
        history = histories[conversation.appid]
        wrong += _check_order(conversation.appid, history)
        wrong += [what for post in conversation.posts if (what := _check(post, conversation, history, replies))]
        wrong += [what for page in conversation.pages if (what := _check_page(page.seen, conversation, replies))]
    statuses = Counter(row["status"] for row in replies.values())
    if statuses["streaming"]:
        wrong.append(f"{statuses['streaming']} replies have the status streaming")
    return Result(title, _rows(conversations, statuses), wrong)


def _rows(conversations: Sequence["Conversation"], statuses: Counter[str]) -> dict[str, str]:
    posts = [post for conversation in conversations for post in conversation.posts]
    answers = Counter(status for post in posts for status in post.statuses)
    errors = Counter(error for post in posts for event in post.events if (error := event.error) is not None)
    return {
        "prompts of plain clients": f"{len(posts):,}",
        "read to the end": f"{sum(bool(post.ended) for post in posts):,}",
        "left by their client, before the first event": (
            f"{sum(bool(post.left) for post in posts):,}, "
            f"{sum(bool(post.left) and not post.events for post in posts):,}"
        ),
        "connections broken by a death": f"{sum(post.broken for post in posts):,}",
        "lines received": f"{sum(len(post.events) for post in posts):,}",
        "replies begun and followed by pages": f"{sum(len(conversation.pages) for conversation in conversations):,}",
        "replies by status": ", ".join(f"{name} {count:,}" for name, count in sorted(statuses.items())),
        "answers (status: times)": ", ".join(f"{status}: {times:,}" for status, times in sorted(answers.items())),
        "errors shown": "; ".join(f"{error} {times}" for error, times in errors.items()) or "none",
    }


def _signed(text: str) -> list[tuple[int, int]]:
    return [(int(number), int(place)) for number, place in re.findall(r"(\d+)\.(\d+) ", text)]


def _check_order(appid: str, history: Sequence[tuple[str, str]]) -> list[str]:
    """Check that each answer follows its own prompt, and that its words are whole and in order."""
    wrong = []
    for (_, before), (role, text) in itertools.pairwise([("", ""), *history]):
        if role == "assistant":
            words = _signed(text)
            if words != [(int(before[1:] or 0) if before[:1] == "p" else 0, place) for place in range(len(words))]:
                wrong.append(f"{appid}: after {before!r} comes {text!r}")
    prompts = Counter(text for role, text in history if role == "user")
    wrong += [f"{appid}: {text} is recorded {times} times" for text, times in prompts.items() if times > 1]
    return wrong


def _check(
    post: "Post",
    conversation: "Conversation",
    history: Sequence[tuple[str, str]],
    replies: Mapping[UUID, Any],
) -> str | None:
    name = f"{post.appid} p{post.number} ({post.path}, {post.statuses})"
    failed_waiting = len(post.events) == 1 and post.events[0].error is not None and not post.text
    if [event.id for event in post.events] != list(range(len(post.events))):
        return f"{name}: events {[event.id for event in post.events]}"
    words = _signed(post.text)
    if words != [(post.number, place) for place in range(len(words))]:
        return f"{name}: words {words}"
    reply = replies.get(UUID(post.path.rpartition("/")[2])) if post.path else None
    if post.left and not post.events and reply and reply["started"] > post.left + LEAVING:
        return f"{name}: began {reply['started'] - post.left:.2f} s after its client had left"
    if conversation.prepared > post.began or failed_waiting:
        return None
    recorded = [place for place, message in enumerate(history) if message == ("user", f"p{post.number}")]
    if post.events and not recorded:
        return f"{name}: has {len(post.events)} events, and is not recorded"
    if recorded and post.ended:
        following = history[recorded[0] + 1] if recorded[0] + 1 < len(history) else ("", "")
        stored = following[1] if following[0] == "assistant" else ""
        if stored != post.text:
            return f"{name}: the answer {stored!r} differs from {post.text!r}"
    return None


def _check_page(seen: Any, conversation: "Conversation", replies: Mapping[UUID, Any]) -> str | None:
    """Check that a page saw its reply whole: it is never superseded."""
    if not seen.ended:
        return f"{conversation.appid} {seen.name} ({seen.path}) never ended for its page"
    if [event.id for event in seen.events] != list(range(len(seen.events))):
        return f"{conversation.appid} {seen.name}: events {[event.id for event in seen.events]}"
    reply = replies.get(UUID(seen.path.rpartition("/")[2]))
    if reply is None or reply["status"] != "done" or len(_signed(seen.text)) != seen.words:
        return f"{conversation.appid} {seen.name} ({seen.path}): {reply and reply['status']}, {seen.text!r}"
    return None
