"""Client libraries read replies: whole, over cut connections, through silence, with a long line, and to the end."""

import json
from typing import Any

import pytest

from tests.clients.conftest import CUTS, LONG, WORDS, Run
from tests.clients.libraries import LIBRARIES, Library

QUICK = {"httpx-sse", "eventsource-parser"}
"""One library of each language that starts quickly."""


def each(scene: str, *, posting: bool = False, repeating: bool = False) -> list[Any]:
    """Return the parameters of a test with each library, all but the quick ones marked as extended."""
    parameters = []
    for library in LIBRARIES:
        if (posting and not library.posts) or (repeating and not library.repeats):
            continue
        marks = [pytest.mark.needs(*library.needs)]
        if library.name not in QUICK or scene != "words":
            marks.append(pytest.mark.extended)
        parameters.append(pytest.param(library, scene, marks=marks, id=library.name))
    return parameters


def check_whole(run: Run) -> None:
    """The events are the reply's log, and nothing was recorded or begun twice."""
    assert run.events == run.log
    assert [role for role, _ in run.messages] == ["user", "assistant"]
    assert json.loads(run.events[-1][2])["done"] is True


@pytest.mark.parametrize(("library", "scene"), each("words"))
def test_a_reply_is_read_to_its_end(library: Library, scene: str, run: Run) -> None:
    check_whole(run)
    assert run.messages[1][1] == "".join(f"w{number} " for number in range(WORDS))
    assert [one.method for one in run.requests if one.method != "OPTIONS"] == ["POST" if library.posts else "GET"]


@pytest.mark.parametrize(("library", "scene"), each("silence"))
def test_the_default_timeouts_outlast_a_silence_of_20_s(library: Library, scene: str, run: Run) -> None:
    check_whole(run)
    assert [one.method for one in run.requests if one.method != "OPTIONS"] == ["POST" if library.posts else "GET"]


@pytest.mark.parametrize(("library", "scene"), each("cuts"))
def test_a_reply_is_followed_across_cuts(library: Library, scene: str, run: Run) -> None:
    check_whole(run)
    requests = [one for one in run.requests if one.method == "GET"]
    assert len(requests) == CUTS + 1
    assert requests[0].last_event_id is None


@pytest.mark.parametrize(("library", "scene"), each("long-line"))
def test_a_line_of_7_mb_is_read(library: Library, scene: str, run: Run) -> None:
    check_whole(run)
    assert len(run.messages[1][1]) == LONG


@pytest.mark.parametrize(("library", "scene"), each("cut-post", repeating=True))
def test_a_library_that_repeats_its_post_goes_on_with_the_same_reply(library: Library, scene: str, run: Run) -> None:
    check_whole(run)
    requests = [one for one in run.requests if one.method != "OPTIONS"]
    assert [one.method for one in requests] == ["POST"] * (CUTS + 1)
    assert [one.last_event_id is None for one in requests] == [True] + [False] * CUTS


@pytest.mark.parametrize(("library", "scene"), each("left-open", repeating=True))
def test_a_library_that_reconnects_after_the_end_begins_nothing(library: Library, scene: str, run: Run) -> None:
    check_whole(run)
    first, *repeated = [one for one in run.requests if one.method != "OPTIONS"]
    assert first.last_event_id is None
    assert repeated and {one.last_event_id for one in repeated} == {run.log[-1][0]}
