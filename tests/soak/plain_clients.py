"""The campaign of plain clients: they prompt, leave and prompt again in shared conversations while servers die."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from tests.fakes.template import END
from tests.soak.plain_results import judge_conversations
from tests.soak.results import Result, percentiles
from tests.soak.site import DRAIN, Site
from tests.soak.upstream import InProcess, TimedWords
from tests.soak.viewer import Viewer
from tests.soak.wire import Answer, Event, Events

CONVERSATIONS = 24

WORDS = (3, 30)
"""The minimum and maximum number of words in a reply."""

RHYTHM = 0.05
"""Seconds between two words of the model."""

PATIENCE = 60.0
"""Seconds within which a prompt must end: two others, of 1.5 s each, and a death or two may be before it."""

REFUSED = (502, 503)
"""Statuses of a request that finds no server; anything else but 200, and 204 and 409 for reconnects, is wrong."""

QUIET = 35.0
"""Seconds within which no prompt waits, and no viewer is left, after the last client has gone."""


class Signed(TimedWords):
    """A model whose words name the prompt, by the request's ``options.seed``: ``17.0 17.1 17.2 ...``."""

    def pieces(self, given: str, request: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        assert END not in given
        return ((number, f"{request['options']['seed']}.{number} ") for number in itertools.count(len(given.split())))


@dataclass
class Post:
    """A prompt of a plain client, over all its connections.

    :ivar number: signs the prompt and the model's words.
    :ivar began: when it was sent, as all times by ``time.time``.
    :ivar left: when its client disconnected for good; 0.0: never.
    :ivar ended: when its client was told of the end; 0.0: never.
    :ivar waited: seconds until the first event.
    :ivar statuses: of all answers, in order.
    :ivar path: the reply's, as last told.
    """

    number: int
    appid: str
    words: int
    began: float = field(default_factory=time.time)
    left: float = 0.0
    ended: float = 0.0
    waited: float = 0.0
    statuses: list[int] = field(default_factory=list)
    path: str = ""
    events: list[Event] = field(default_factory=list)
    broken: bool = False

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)

    def body(self) -> bytes:
        return msgspec.json.encode(
            {
                "appID": self.appid,
                "model": "fake",
                "messages": [{"role": "user", "content": f"p{self.number}"}],
                "options": {"num_predict": self.words, "seed": self.number},
                "stream": True,
            }
        )


@dataclass
class Conversation:
    """A conversation, and what its clients did in it.

    :ivar prepared: when ``/llmprep`` was answered last; 0.0: never.
    :ivar pages: replies that a page began, and followed to the end.
    """

    appid: str
    prepares: bool
    prepared: float = 0.0
    posts: list[Post] = field(default_factory=list)
    pages: list[Viewer] = field(default_factory=list)


class Crowd:
    """The clients of all conversations; each goes on until :meth:`end`.

    Two plain clients share each conversation; in every fourth one they now and then send ``/llmprep``, in every
    third of the others a page begins replies, too.
    """

    def __init__(self, port: int, chance: random.Random) -> None:
        self.conversations = [Conversation(f"plain-{n}", n % 4 == 3) for n in range(CONVERSATIONS)]
        self.unexpected: Counter[str] = Counter()
        self._port = port
        self._chance = chance
        self._numbers = itertools.count(1)
        self._on = True
        self._tasks = [
            asyncio.create_task(client(conversation))
            for number, conversation in enumerate(self.conversations)
            for client in [
                self._plain_client,
                self._plain_client,
                *[self._page] * (number % 3 == 2 and not conversation.prepares),
            ]
        ]

    async def end(self) -> None:
        """Begin nothing more, and wait for the clients."""
        self._on = False
        await asyncio.gather(*self._tasks)

    async def _plain_client(self, conversation: Conversation) -> None:
        while self._on:
            if conversation.prepares and self._chance.random() < 0.1:
                await self._prepare(conversation)
            post = Post(next(self._numbers), conversation.appid, self._chance.randint(*WORDS))
            conversation.posts.append(post)
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._send(post)
            except TimeoutError:
                self.unexpected[f"p{post.number} {post.path} did not end within {PATIENCE:g} s"] += 1
            if self._chance.random() < 0.3:
                await asyncio.sleep(self._chance.uniform(0.0, 1.0))

    async def _send(self, post: Post) -> None:
        """Read to the end (a half), leave after a time (a quarter), or be cut and reconnect as a library does."""
        kind = self._chance.choice(("read", "read", "leave", "reconnect"))
        if kind == "leave":
            try:
                async with asyncio.timeout(self._chance.uniform(0.0, 2.0)):
                    await self._connect(post)
            except TimeoutError:
                post.left = time.time()
        elif kind == "read":
            await self._connect(post)
        else:
            await self._reconnect(post)

    async def _reconnect(self, post: Post) -> None:
        for _ in range(self._chance.randint(1, 3)):
            await self._connect(post, cut=self._chance.randint(1, 10))
            if post.ended or not post.events or post.statuses[-1] not in (200, *REFUSED):
                return
            await asyncio.sleep(self._chance.uniform(0.0, 0.3))
        await self._connect(post)

    async def _connect(self, post: Post, cut: int | None = None) -> None:
        """Send the prompt, with ``Last-Event-ID`` if there were events, and read up to ``cut`` events.

        A connection that breaks is left at that: the client sends its next prompt.
        """
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            post.broken = True
            return
        try:
            body, last = post.body(), f"Last-Event-ID: {post.events[-1].id}\r\n" if post.events else ""
            head = f"POST /llmchat HTTP/1.1\r\nHost: chat\r\nContent-Type: application/json\r\n{last}"
            writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await self._read(reader, post, Answer(), bool(last), cut)
        except OSError:
            post.broken = True
        finally:
            if self._chance.random() < 0.5:
                writer.transport.abort()
            else:
                writer.close()

    async def _read(
        self, reader: asyncio.StreamReader, post: Post, answer: Answer, repeated: bool, cut: int | None
    ) -> None:
        events, count = Events(), len(post.events)
        while not answer.whole and (cut is None or len(post.events) < count + cut):
            if not (data := await reader.read(65_536)):
                post.broken = True
                return
            noted, body = bool(answer.status), answer.feed(data)
            if answer.status and not noted:
                self._note(post, answer, repeated)
            if answer.status == 200 and (found := events.feed(body)):
                post.waited = post.waited or time.time() - post.began
                post.events += found
                if found[-1].ends or found[-1].error is not None:
                    post.ended = time.time()
        if answer.status == 204:
            post.ended = time.time()

    def _note(self, post: Post, answer: Answer, repeated: bool) -> None:
        post.statuses.append(answer.status)
        post.path = answer.headers.get("content-location", post.path)
        if answer.status not in ((200, 204, 409, *REFUSED) if repeated else (200, *REFUSED)):
            self.unexpected[f"status {answer.status}, Last-Event-ID {'given' if repeated else 'not given'}"] += 1

    async def _prepare(self, conversation: Conversation) -> None:
        messages = [{"role": "system", "content": "You are kind."}]
        body = {"appID": conversation.appid, "model": "fake", "messages": messages, "stream": False}
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            try:
                answer = await client.post(f"http://127.0.0.1:{self._port}/llmprep", json=body)
            except httpx.TransportError:
                conversation.prepared = time.time()  # it may have been done
                return
        conversation.prepared = time.time()
        if answer.status_code not in (200, *REFUSED):
            self.unexpected[f"status {answer.status_code} of /llmprep"] += 1

    async def _page(self, conversation: Conversation) -> None:
        while self._on:
            await asyncio.sleep(self._chance.uniform(0.0, 4.0))
            number, words = next(self._numbers), self._chance.randint(*WORDS)
            post = Post(number, conversation.appid, words)
            page = Viewer(
                self._port,
                f"p{number}",
                words,
                self._chance,
                cut=lambda: self._chance.choice((None, self._chance.randint(1, 3_000))),
                request=msgspec.json.decode(post.body()),
            )
            conversation.pages.append(page)
            await page.watch()


async def plain_clients(count: int, seed: int) -> Result:
    """Kill or drain one of three servers at a time while plain clients prompt, leave and prompt again."""
    chance = random.Random(seed)
    upstream = InProcess(RHYTHM, Signed)
    began = time.monotonic()
    with Site("haproxy", upstream) as site:
        await site.ready()
        crowd = Crowd(site.port, chance)
        for turn in range(count):
            await asyncio.sleep(chance.uniform(0.2, 1.5))
            number = chance.randrange(3)
            if chance.random() < 0.5:
                await site.kill(number)
            else:
                await site.terminate(number)
            await site.revive(number)
            if turn % 10 == 9:
                print(f"  {turn + 1} of {count} after {time.monotonic() - began:.0f} s", flush=True)
        await crowd.end()
        left = await _until_quiet(site)
        title = f"{count} kill -9 or SIGTERM (--drain-timeout={DRAIN}), plain clients in {CONVERSATIONS} conversations"
        result = await judge_conversations(title, crowd.conversations, site.database_url)
        result.wrong += [f"{what}: {times} times" for what, times in crowd.unexpected.items()]
        result.wrong += [f"{left} are left {QUIET:g} s after the last client"] if any(left.values()) else []
        result.wrong += upstream.errors
        result.rows |= await _counters(site)
        result.rows["errors in the servers' logs"] = str(dict(site.alarms()) or "none")
    posts = [post for conversation in crowd.conversations for post in conversation.posts]
    result.rows["from a prompt to its first event: p50 / p99 / max"] = percentiles(
        post.waited for post in posts if post.waited
    )
    result.rows["time in all"] = f"{time.monotonic() - began:.0f} s"
    return result


GAUGES = ("chatterd_prompts_waiting", "chatterd_viewers", "chatterd_replies_running")


async def _metrics(site: Site) -> Counter[str]:
    """Return the sum of each metric without labels over all servers."""
    found: Counter[str] = Counter()
    async with httpx.AsyncClient(trust_env=False) as client:
        for server in site.servers:
            for line in (await client.get(f"{server.url}/metrics")).text.splitlines():
                name, _, value = line.partition(" ")
                if line[0] != "#" and "{" not in name:
                    found[name] += int(float(value))
    return found


async def _until_quiet(site: Site) -> dict[str, int]:
    """Wait until no prompt waits and no viewer is left; return what is left after :data:`QUIET` seconds."""
    deadline = time.monotonic() + QUIET
    while True:
        metrics = await _metrics(site)
        left = {name: metrics[name] for name in GAUGES}
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.5)


async def _counters(site: Site) -> dict[str, str]:
    said = "\n".join(server.log for server in [*site.ended, *site.servers])
    return {
        "replies superseded, adopted": f"{said.count('has no viewers and is stopped')}, {said.count('Adopted reply')}"
    }
