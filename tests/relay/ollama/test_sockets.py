"""Sockets that are read together: each gets its own bytes, all of them, in order, whatever happens to the others."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.ollama import sockets
from relay.ollama.sockets import Sockets

pytestmark = pytest.mark.anyio

Pair = tuple[socket.socket, socket.socket]


class Taker:
    """Notes what it is given.

    :param also: is called with it too.
    """

    def __init__(self, also: Callable[[bytes | None], object] = lambda data: None) -> None:
        self.taken: list[bytes | None] = []
        self._also = also
        self._changed = asyncio.Event()

    def __call__(self, data: bytes | None) -> None:
        self.taken.append(data)
        self._changed.set()
        self._also(data)

    async def until(self, expected: list[bytes | None]) -> None:
        async with asyncio.timeout(10):
            while len(self.taken) < len(expected):
                self._changed.clear()
                await self._changed.wait()
        assert self.taken == expected


def removing(together: Sockets, read: socket.socket) -> Taker:
    """Notes what it is given, and removes its socket at the end, as every taker does."""

    def remove_at_end(data: bytes | None) -> None:
        if not data:
            together.remove(read)

    return Taker(remove_at_end)


@pytest.fixture
def new_pair() -> Iterator[Callable[[], Pair]]:
    """Makes connected pairs: the end that is read, and the other."""
    with ExitStack() as ends:

        def new() -> Pair:
            read, other = socket.socketpair()
            read.setblocking(False)
            ends.enter_context(read)
            ends.enter_context(other)
            return read, other

        yield new


@pytest.fixture
async def together() -> AsyncIterator[Sockets]:
    together = Sockets()
    yield together
    together.close()


async def rounds(count: int) -> None:
    """Give so many readings the time to be made, of sockets that may not be read."""
    await asyncio.sleep(count * sockets.READ_INTERVAL)


async def test_each_socket_gets_its_own_bytes_in_order(together: Sockets, new_pair: Callable[[], Pair]) -> None:
    pairs = [new_pair() for _ in range(50)]
    takers = [Taker() for _ in pairs]
    for (read, _), taker in zip(pairs, takers, strict=True):
        together.add(read, taker)
    for turn in range(3):
        for number, (_, other) in enumerate(pairs):
            other.send(b"%d:%d" % (turn, number))
        for number, taker in enumerate(takers):
            await taker.until([b"%d:%d" % (past, number) for past in range(turn + 1)])


async def test_more_sockets_than_one_reading_takes_are_all_read(
    together: Sockets, new_pair: Callable[[], Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "READ_SOCKETS", 3)
    pairs = [new_pair() for _ in range(10)]
    takers = [Taker() for _ in pairs]
    for (read, other), taker in zip(pairs, takers, strict=True):
        other.send(b"a")
        together.add(read, taker)
    for taker in takers:
        await taker.until([b"a"])


async def test_what_is_longer_than_one_reading_comes_whole(together: Sockets, new_pair: Callable[[], Pair]) -> None:
    read, other = new_pair()
    data = bytes(range(256)) * 200
    arrived, whole = bytearray(), asyncio.Event()

    def take(piece: bytes | None) -> None:
        arrived.extend(piece or b"")
        if len(arrived) == len(data):
            whole.set()

    together.add(read, take)
    await asyncio.get_running_loop().run_in_executor(None, other.sendall, data)
    async with asyncio.timeout(10):
        await whole.wait()
    assert arrived == data


async def test_an_end_is_nothing_and_a_break_is_none(together: Sockets, new_pair: Callable[[], Pair]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        broken = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    broken.setblocking(False)
    ended, other = new_pair()
    takers = []
    for read in (broken, ended):
        takers.append(removing(together, read))
        together.add(read, takers[-1])
    broken.send(b"unread: closing resets")
    peer.close()
    other.send(b"last")
    other.close()
    await takers[0].until([None])
    await takers[1].until([b"last", b""])
    broken.close()


async def test_a_socket_that_is_removed_is_read_no_more(together: Sockets, new_pair: Callable[[], Pair]) -> None:
    (removed, other), (kept, witness) = new_pair(), new_pair()
    silent, taker = Taker(), Taker()
    together.add(removed, silent)
    together.add(kept, taker)
    together.remove(removed)
    together.remove(removed)
    other.send(b"a")
    witness.send(b"a")
    await taker.until([b"a"])
    assert not silent.taken


async def test_a_descriptors_number_may_go_to_another_socket_within_one_reading(
    together: Sockets, new_pair: Callable[[], Pair]
) -> None:
    old_pairs = [new_pair(), new_pair()]
    fresh = Taker()
    reused: list[tuple[int, int]] = []

    def replace(_: bytes | None) -> None:
        """Whichever is given its bytes first closes the other, whose bytes are read already, for a third."""
        if reused:
            return
        other = next(read for (read, _), taker in zip(old_pairs, takers, strict=True) if not taker.taken)
        number = other.fileno()
        together.remove(other)
        other.close()
        third, peer = new_pair()
        reused.append((number, third.fileno()))
        together.add(third, fresh)
        peer.send(b"of the third")

    takers = [Taker(replace), Taker(replace)]
    for (_, other), letter in zip(old_pairs, (b"a", b"b"), strict=True):
        other.send(letter)
    for (read, _), taker in zip(old_pairs, takers, strict=True):
        together.add(read, taker)
    await fresh.until([b"of the third"])
    assert [taker.taken for taker in takers] == [[b"a"], [b"b"]]
    assert reused[0][0] == reused[0][1]


async def test_one_that_fails_takes_nothing_from_the_others(together: Sockets, new_pair: Callable[[], Pair]) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    failures: list[object] = []
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    try:
        pairs = [new_pair() for _ in range(5)]
        takers = [Taker(fail) if number % 2 else Taker() for number in range(5)]
        for turn in range(2):
            for (read, other), taker in zip(pairs, takers, strict=True):
                other.send(b"a")
                if not turn:
                    together.add(read, taker)
            for taker in takers:
                await taker.until([b"a"] * (turn + 1))
    finally:
        loop.set_exception_handler(handler)
    assert [type(failure) for failure in failures] == [ZeroDivisionError] * 4


async def test_all_may_be_closed_while_bytes_are_handed_out(new_pair: Callable[[], Pair]) -> None:
    together = Sockets()
    read, other = new_pair()
    taker = Taker(lambda _: together.close())
    together.add(read, taker)
    other.send(b"a")
    await taker.until([b"a"])
    together.remove(read)
    together.close()
    other.send(b"b")
    await rounds(2)  # a reading of what is closed would fail the test
    assert taker.taken == [b"a"]


async def test_a_pause_ends_with_the_first_byte(
    together: Sockets, new_pair: Callable[[], Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, other = new_pair()
    taker = Taker()
    together.add(read, taker)
    other.send(b"a")
    await taker.until([b"a"])
    await rounds(3)
    monkeypatch.setattr(sockets, "READ_INTERVAL", 3600)  # nobody waits for the next round: it is woken
    other.send(b"b")
    await taker.until([b"a", b"b"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["send", "remove", "add", "turn", "round"]))),
)
def test_whatever_happens_to_sockets_each_gets_its_own_bytes_once(steps: list[tuple[int, str]]) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[int, str]]) -> None:
    """Play steps on four places, each with a socket that may be replaced; at the end all that are left are read."""
    together = Sockets()
    places: list[tuple[socket.socket, socket.socket, Taker, bytearray] | None] = [None] * 4
    ended: list[tuple[Taker, bytearray]] = []
    for place, step in steps:
        one = places[place]
        if step == "turn":
            await asyncio.sleep(0)
        elif step == "round":
            await rounds(1)
        elif step == "add" and not one:
            read, other = socket.socketpair()
            read.setblocking(False)
            taker = removing(together, read)
            together.add(read, taker)
            places[place] = read, other, taker, bytearray()
        elif one and step == "send":
            one[3].extend(b"%d" % place)
            one[1].send(b"%d" % place)
        elif one and step == "remove":
            together.remove(one[0])
            one[0].close()
            one[1].close()
            ended.append(one[2:])
            places[place] = None
    for one in places:
        if one:
            one[1].close()
            async with asyncio.timeout(10):
                while one[2].taken[-1:] != [b""]:
                    await asyncio.sleep(0)
            assert b"".join(data or b"" for data in one[2].taken) == one[3]
            one[0].close()
    for taker, sent in ended:
        assert sent.startswith(b"".join(data or b"" for data in taker.taken))
    together.close()
