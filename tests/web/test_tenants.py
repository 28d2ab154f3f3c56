"""Tenants: to each, the others' conversations, replies and idempotency keys do not exist, in any process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.client import Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.handlers.test_openapi import OPERATIONS, operation
from tests.program import Program
from tests.tokens import TokenFile


@dataclass
class Site:
    """Two processes on one database, with a token of each of two tenants."""

    owner: Program
    other: Program
    tokens: TokenFile

    def client(self, process: str, name: str, appid: str | None = None) -> Client:
        return self.tokens.client(getattr(self, process).url, name, appid)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str], _session_ollama: ScriptedOllama
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("tenants")
    tokens = TokenFile(folder / "tokens")
    tokens.add("alice")
    tokens.add("anna", tenant="alice")
    tokens.add("bob")
    settings = {
        "database_url": new_database(),
        "ollama_host": _session_ollama.url,
        "embedded_model": False,
        "drain": 1,
        "auth": "token",
        "token_file": tokens.path,
        "data_dir": folder,
    }
    with Program(**settings) as owner, Program(**settings) as other:
        yield Site(owner, other, tokens)
        assert not owner.alarms([]) + other.alarms([])


@dataclass
class Belongings:
    """What is Alice's: a conversation with a reply that has ended, and one that is being generated in ``owner``."""

    client: Client
    ended: str
    running: str
    gate: Gate
    seq: int

    @property
    def end(self) -> list[str]:
        """Let the reply end, and see that nothing happened to it."""
        self.gate.open()
        return [event.json["message"]["content"] for event in self.client.view(self.running)]


@pytest.fixture
def alices(site: Site, ollama: ScriptedOllama) -> Iterator[Belongings]:
    client = site.client("owner", "alice")
    with client.http:
        said = [{"role": "system", "content": "secret rules"}, {"role": "user", "content": "secret"}]
        ended = client.begin(messages=said, headers={"Idempotency-Key": "key"})
        client.view(ended)
        seq = client.history()["messages"][-1]["seq"]
        gate = Gate()
        ollama.script(Head(), Lines(line("a")), gate, Lines(line("b"), last_line()))
        running = client.begin("more", headers={"Idempotency-Key": "running"})
        with client.follow(running) as stream:
            assert stream.next()
        yield Belongings(client, ended, running, gate, seq)
        gate.open()
        client.view(running)


Attempt = Callable[[Client, Belongings], httpx.Response]


def nothing(answer: httpx.Response) -> None:
    """The answer about a reply that does not exist."""
    assert (answer.status_code, answer.json()) == (404, {"error": "There is no such reply."})
    assert not {"location", "content-location"} & {*answer.headers}


def empty(answer: httpx.Response) -> None:
    """The answer about a conversation that does not exist."""
    assert answer.status_code == 200
    assert {"messages": [], "reply": None, "before": None}.items() <= answer.json().items()


def forgotten(answer: httpx.Response) -> None:
    assert answer.status_code == 204


def own(answer: httpx.Response) -> None:
    """A conversation of one's own has begun, of the same name."""
    assert answer.status_code == 200 and "secret" not in answer.text


def same_for_all(answer: httpx.Response) -> None:
    """Ollama's own, which is nobody's."""
    assert answer.status_code == 200


ATTEMPTS: dict[str, tuple[str, Attempt, Callable[[httpx.Response], None]]] = {
    "a reply under way": ("getReply", lambda c, a: c.http.get(a.running), nothing),
    "a reply under way, later": (
        "getReply",
        lambda c, a: c.http.get(a.running, headers={"Last-Event-ID": "0"}),
        nothing,
    ),
    "a reply under way, its end": ("getReply", lambda c, a: c.http.get(f"{a.running}?lastEventId=99"), nothing),
    "a reply": ("getReply", lambda c, a: c.http.get(a.ended), nothing),
    "a reply's end": ("getReply", lambda c, a: c.http.get(a.ended, headers={"Last-Event-ID": "99"}), nothing),
    "to stop a reply": ("stopReply", lambda c, a: c.http.delete(a.running), nothing),
    "to stop a reply that has ended": ("stopReply", lambda c, a: c.http.delete(a.ended), nothing),
    "a conversation": ("getConversation", lambda c, a: c.http.get("/llmchat", params={"appID": a.client.appid}), empty),
    "a conversation, earlier": (
        "getConversation",
        lambda c, a: c.http.get("/llmchat", params={"appID": a.client.appid, "before": a.seq}),
        empty,
    ),
    "to forget a conversation": (
        "deleteConversation",
        lambda c, a: c.http.delete("/llmchat", params={"appID": a.client.appid}),
        forgotten,
    ),
    "to forget a message": (
        "deleteConversation",
        lambda c, a: c.http.delete("/llmchat", params={"appID": a.client.appid, "from": a.seq}),
        forgotten,
    ),
    "to go on": ("beginReply", lambda c, a: c.http.post("/llmchat", json=a.client.body()), own),
    "to go on with a known key": (
        "beginReply",
        lambda c, a: c.http.post("/llmchat", json=a.client.body("hi"), headers={"Idempotency-Key": "key"}),
        own,
    ),
    "to go on with the key of a reply under way": (
        "beginReply",
        lambda c, a: c.http.post("/llmchat", json=a.client.body("hi"), headers={"Idempotency-Key": "running"}),
        own,
    ),
    "to generate": (
        "generate",
        lambda c, a: c.http.post("/llmprompt", json={"model": "fake", "prompt": "x"}),
        same_for_all,
    ),
    "the models": ("listModels", lambda c, a: c.http.get("/models"), same_for_all),
    "who it is": ("whoAmI", lambda c, a: c.http.get("/sign-in/me"), same_for_all),
}


def test_every_operation_that_requires_authentication_is_covered() -> None:
    needing = {id for id in OPERATIONS if "401" in operation(id)["responses"]}
    assert {id for id, _, _ in ATTEMPTS.values()} == needing - {"signIn", "watchStatus", "getMetrics"}


@pytest.mark.parametrize("process", ["owner", "other"])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_resources_of_another_tenant_do_not_exist(
    site: Site, alices: Belongings, ollama: ScriptedOllama, process: str, attempt: str
) -> None:
    _, ask, expect = ATTEMPTS[attempt]
    before = alices.client.history()
    ollama.default = (Head(), Lines(line("mine"), last_line()))
    bob = site.client(process, "bob")
    with bob.http:
        expect(ask(bob, alices))
        for request in ollama.requests[2:]:
            assert "secret" not in request.body.decode()
    assert alices.client.history() == before
    assert alices.end == ["a", "b", ""]


@pytest.mark.parametrize("process", ["owner", "other"])
def test_principals_of_one_tenant_share_its_resources(site: Site, alices: Belongings, process: str) -> None:
    anna = site.client(process, "anna", alices.client.appid)
    with anna.http:
        assert anna.history() == alices.client.history()
        assert anna.view(alices.ended)
        again = anna.http.post(
            "/llmchat", json=anna.body("x"), headers={"Idempotency-Key": "key", "Prefer": "respond-async"}
        )
        assert again.headers["Location"] == alices.ended
        assert anna.http.delete(alices.running).status_code == 202
        assert anna.view(alices.running)[-1].json["done_reason"] == "stopped"


def test_tenants_may_use_the_same_appid_concurrently(
    site: Site, alices: Belongings, ollama: ScriptedOllama
) -> None:
    bob = site.client("owner", "bob", alices.client.appid)
    with bob.http:
        gate = Gate()
        ollama.script(Head(), Lines(line("x")), gate, Lines(last_line()))
        running = bob.begin("mine", headers={"Idempotency-Key": "running"})
        assert running != alices.running
        for whose, own_reply in ((bob, running), (alices.client, alices.running)):
            for headers in ({}, {"Idempotency-Key": "key of nobody"}):
                refused = whose.http.post("/llmchat", json=whose.body("too"), headers=headers)
                assert (refused.status_code, refused.headers["Location"]) == (409, own_reply)
        refused = bob.http.post("/llmchat", json=bob.body("too"), headers={"Idempotency-Key": "key"})
        assert (refused.status_code, refused.headers["Location"]) == (409, running)
        assert alices.end == ["a", "b", ""]
        gate.open()
        bob.view(running)
        assert bob.messages() == [("user", "mine"), ("assistant", "x")]
        assert [content for _, content in alices.client.messages()][-2:] == ["more", "ab"]
        assert bob.http.delete("/llmchat", params={"appID": bob.appid}).status_code == 204
        assert bob.messages() == []
        assert len(alices.client.messages()) == 5


@pytest.mark.expects_log("declared dead")
def test_an_adopted_reply_still_belongs_to_its_tenant(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path, ollama: ScriptedOllama
) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    tokens.add("alice")
    tokens.add("bob")
    settings = {"database_url": database_url, "auth": "token", "token_file": tokens.path, "data_dir": tmp_path}
    other, owner = start_chatterd(**settings), start_chatterd(**settings)
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), Gate())
    ollama.script(Head(), Lines(line("b")), gate, Lines(last_line()))
    alice = tokens.client(owner.url, "alice")
    with alice.http:
        running = alice.begin("hi")
        with alice.follow(running) as stream:
            assert stream.next()
    owner.kill()
    alice, bob = tokens.client(other.url, "alice", alice.appid), tokens.client(other.url, "bob", alice.appid)
    with alice.http, bob.http:
        with alice.follow(running) as stream:
            assert [stream.next() for _ in range(2)][1]
            nothing(bob.http.get(running))
            nothing(bob.http.delete(running))
            empty(bob.http.get("/llmchat", params={"appID": bob.appid}))
            gate.open()
            stream.rest()
        assert alice.messages() == [("user", "hi"), ("assistant", "ab")]
        nothing(bob.http.get(running))


def test_a_reply_without_its_log_still_belongs_to_its_tenant(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path
) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    tokens.add("alice")
    tokens.add("bob")
    program = start_chatterd(
        database_url=database_url, auth="token", token_file=tokens.path, data_dir=tmp_path, log_retention=0
    )
    alice, bob = tokens.client(program.url, "alice"), tokens.client(program.url, "bob")
    with alice.http, bob.http:
        path = alice.begin("hi")
        alice.view(path)
        assert len(alice.view(path)) == 1
        nothing(bob.http.get(path))
        nothing(bob.http.get(path, headers={"Last-Event-ID": "0"}))
