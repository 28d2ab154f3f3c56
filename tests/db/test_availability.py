"""What the log says of an outage, whatever the parts of the program report meanwhile."""

import asyncio
import logging
from collections.abc import Callable

import asyncpg
import pytest

from db.connection import availability
from db.connection.availability import Availability
from db.connection.reasons import Reason

pytestmark = pytest.mark.expects_log("The database is (still )?unavailable")

LOST = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
FULL = asyncpg.TooManyConnectionsError("sorry, too many clients already")
REFUSED = ConnectionRefusedError(111, "refused")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "chatterd.db")
    return lambda: [record.getMessage() for record in caplog.records]


def play(act: Callable[[Availability], None]) -> Availability:
    async def run() -> Availability:
        scene = Availability()
        act(scene)
        scene.close()
        return scene

    return asyncio.run(run())


def test_an_outage_has_two_lines_however_many_parts_report_it(said: Callable[[], list[str]]) -> None:
    def act(scene: Availability) -> None:
        for _ in range(100):
            for name in ("pool", "lease", "journal"):
                scene.failed(name, REFUSED)
        scene.restored("lease")
        scene.restored("journal")
        assert scene.reason is Reason.UNREACHABLE
        scene.restored("pool")
        scene.restored("pool")

    assert play(act).reason is None
    first, last = said()
    assert first == "The database is unavailable (unreachable): ConnectionRefusedError: [Errno 111] refused"
    assert last == "The database is available again after 0.0 s."


def test_a_lost_connection_waits_for_the_reason_that_the_next_attempt_finds(said: Callable[[], list[str]]) -> None:
    def act(scene: Availability) -> None:
        scene.failed("journal", LOST)
        assert said() == []
        scene.failed("journal", FULL)
        assert len(said()) == 1
        scene.restored("journal")

    play(act)
    assert said()[0].startswith("The database is unavailable (too many connections): ")
    assert said()[1].startswith("The database is available again after ")


def test_a_lost_connection_that_is_replaced_at_once_has_one_line(said: Callable[[], list[str]]) -> None:
    def act(scene: Availability) -> None:
        scene.failed("pool", LOST)
        scene.restored("pool")

    play(act)
    [only] = said()
    assert only.startswith("The database was unavailable for 0.0 s (connection lost): ConnectionDoesNotExistError")


def test_a_lost_connection_that_is_not_replaced_is_logged_after_a_moment(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "GRACE", 0.0)

    async def run() -> None:
        scene = Availability()
        scene.failed("pool", LOST)
        scene.failed("pool", LOST)
        while not said():
            await asyncio.sleep(0)
        scene.close()

    asyncio.run(run())
    assert len(said()) == 1 and said()[0].startswith("The database is unavailable (connection lost): ")


def test_another_reason_that_lasts_is_logged_once(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "REPEAT_INTERVAL", -1.0)

    def act(scene: Availability) -> None:
        for error in (REFUSED, REFUSED, FULL, FULL):
            scene.failed("pool", error)

    play(act)
    assert [line.partition(":")[0] for line in said()] == [
        "The database is unavailable (unreachable)",
        "The database is still unavailable (too many connections)",
    ]


def test_a_start_says_nothing_before_the_first_report(said: Callable[[], list[str]]) -> None:
    def act(scene: Availability) -> None:
        for name in ("pool", "lease"):
            scene.expect(name)
        assert scene.reason is Reason.CONNECTING
        scene.restored("pool")
        scene.restored("lease")

    assert play(act).reason is None
    assert said() == []


def test_an_outage_that_passes_for_moments_is_not_logged_each_time(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be written fails the statements of one table, and nothing that is checked meanwhile."""

    def act(scene: Availability) -> None:
        for _ in range(100):
            scene.failed("pool", asyncpg.PostgresIOError("could not write"))
            scene.restored("pool")
        assert len(said()) == 2
        scene.failed("pool", REFUSED)  # another reason
        assert len(said()) == 3
        monkeypatch.setattr(availability, "REPEAT_INTERVAL", 0.0)
        scene.restored("pool")
        scene.failed("pool", REFUSED)
        assert len(said()) == 5

    play(act)
