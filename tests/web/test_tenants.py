"""Tenants: conversations, replies and idempotency keys of other tenants do not exist, in any process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.client import Client
from tests.database import execute
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.handlers.test_openapi import OPERATIONS, operation
from tests.program import Program
from tests.tokens import TokenFile


@dataclass
class Cluster:
    """Two processes on one database, with tokens of two tenants."""

    owner: Program
    other: Program
    tokens: TokenFile
    database_url: str

    def client(self, process: str, name: str, appid: str | None = None) -> Client:
        return self.tokens.client(getattr(self, process).url, name, appid)


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str], _session_ollama: ScriptedOllama
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("tenants")
    tokens = TokenFile(folder / "tokens")
    tokens.add("alice")
    tokens.add("anna", tenant="alice")
    tokens.add("bob")
    settings = {
        "database_url": new_database(),
        "ollama_host": _session_ollama.url,
        "embedded_model": False,
        "drain_timeout": 1,
        "auth": "token",
        "token_file": tokens.path,
        "data_dir": folder,
    }
    with Program(**settings) as owner, Program(**settings) as other:
        yield Cluster(owner, other, tokens, str(settings["database_url"]))
        assert not owner.alarms([]) + other.alarms([])


@dataclass
class Resources:
    """A conversation of the tenant alice, with a summary, a finished reply and one that is being generated in
    ``owner``."""

    client: Client
    ended: str
    running: str
    gate: Gate
    seq: int

    @property
    def end(self) -> list[str]:
        """Let the running reply end, and return its texts."""
        self.gate.open()
        return [event.json["message"]["content"] for event in self.client.view(self.running)]


@pytest.fixture
def resources(cluster: Cluster, ollama: ScriptedOllama) -> Iterator[Resources]:
    client = cluster.client("owner", "alice")
    with client.http:
        messages = [{"role": "system", "content": "secret rules"}, {"role": "user", "content": "secret"}]
        ended = client.begin(messages=messages, headers={"Idempotency-Key": "key"})
        client.view(ended)
        client.http.post("/postchatt", json={"name": "alice", "message": "secret"})
        seq = client.history()["messages"][-1]["seq"]
        execute(
            cluster.database_url,
            "INSERT INTO context_summaries (tenant, appid, until, text, edited)"
            f"VALUES ('alice', '{client.appid}', {seq}, 'secret', false)",
        )
        assert client.history()["summary"]["text"] == "secret"
        gate = Gate()
        ollama.script(Head(), Lines(line("a")), gate, Lines(line("b"), last_line()))
        running = client.begin("more", headers={"Idempotency-Key": "running"})
        with client.follow(running) as stream:
            assert stream.next()
        yield Resources(client, ended, running, gate, seq)
        gate.open()
        client.view(running)


Attempt = Callable[[Client, Resources], httpx.Response]


def check_not_found(response: httpx.Response) -> None:
    """The reply does not exist."""
    assert (response.status_code, response.json()) == (404, {"error": "There is no such reply."})
    assert not {"location", "content-location"} & {*response.headers}


def check_empty(response: httpx.Response) -> None:
    """The conversation does not exist."""
    assert response.status_code == 200
    assert {"messages": [], "reply": None, "summary": None, "before": None}.items() <= response.json().items()


def check_no_summary(response: httpx.Response) -> None:
    """The conversation has none."""
    assert response.status_code == 404 and "secret" not in response.text


def check_deleted(response: httpx.Response) -> None:
    assert response.status_code == 204


def check_own(response: httpx.Response) -> None:
    """The request began a conversation of its own tenant, with the same appID."""
    assert response.status_code == 200 and "secret" not in response.text


def check_nothing_to_repeat(response: httpx.Response) -> None:
    assert response.status_code == 409 and "location" not in response.headers


def check_no_chatts(response: httpx.Response) -> None:
    assert response.status_code == 200 and "secret" not in response.text


def check_ok(response: httpx.Response) -> None:
    """The resource does not belong to a tenant."""
    assert response.status_code == 200


ATTEMPTS: dict[str, tuple[str, Attempt, Callable[[httpx.Response], None]]] = {
    "a running reply": ("getReply", lambda c, a: c.http.get(a.running), check_not_found),
    "resume a running reply": (
        "getReply",
        lambda c, a: c.http.get(a.running, headers={"Last-Event-ID": "0"}),
        check_not_found,
    ),
    "resume a running reply at its end": (
        "getReply",
        lambda c, a: c.http.get(f"{a.running}?lastEventId=99"),
        check_not_found,
    ),
    "a finished reply": ("getReply", lambda c, a: c.http.get(a.ended), check_not_found),
    "resume a finished reply at its end": (
        "getReply",
        lambda c, a: c.http.get(a.ended, headers={"Last-Event-ID": "99"}),
        check_not_found,
    ),
    "stop a running reply": ("stopReply", lambda c, a: c.http.delete(a.running), check_not_found),
    "stop a finished reply": ("stopReply", lambda c, a: c.http.delete(a.ended), check_not_found),
    "a conversation": (
        "getConversation",
        lambda c, a: c.http.get("/llmchat", params={"appID": a.client.appid}),
        check_empty,
    ),
    "an earlier page of a conversation": (
        "getConversation",
        lambda c, a: c.http.get("/llmchat", params={"appID": a.client.appid, "before": a.seq}),
        check_empty,
    ),
    "edit a summary": (
        "putSummary",
        lambda c, a: c.http.put("/summary", params={"appID": a.client.appid, "until": a.seq}, json={"text": "x"}),
        check_no_summary,
    ),
    "delete a conversation": (
        "deleteConversation",
        lambda c, a: c.http.delete("/llmchat", params={"appID": a.client.appid}),
        check_deleted,
    ),
    "delete a message": (
        "deleteConversation",
        lambda c, a: c.http.delete("/llmchat", params={"appID": a.client.appid, "from": a.seq}),
        check_deleted,
    ),
    "begin a reply": ("beginReply", lambda c, a: c.http.post("/llmchat", json=a.client.body()), check_own),
    "begin a reply with a used key": (
        "beginReply",
        lambda c, a: c.http.post("/llmchat", json=a.client.body("hi"), headers={"Idempotency-Key": "key"}),
        check_own,
    ),
    "begin a reply with the key of a running one": (
        "beginReply",
        lambda c, a: c.http.post("/llmchat", json=a.client.body("hi"), headers={"Idempotency-Key": "running"}),
        check_own,
    ),
    "repeat the prompt of a running reply": (
        "beginReply",
        lambda c, a: c.http.post("/llmchat", json=a.client.body("more"), headers={"Last-Event-ID": "0"}),
        check_nothing_to_repeat,
    ),
    "prepare a conversation": (
        "prepareConversation",
        lambda c, a: c.http.post("/llmprep", json=a.client.body("x")),
        check_ok,
    ),
    "the messages without an appID": ("getChatts", lambda c, a: c.http.get("/getchatts"), check_no_chatts),
    "a message without an appID": (
        "postChatt",
        lambda c, a: c.http.post("/postchatt", json={"name": "bob", "message": "x"}),
        check_ok,
    ),
    "generate": (
        "generate",
        lambda c, a: c.http.post("/llmprompt", json={"model": "fake", "prompt": "x"}),
        check_ok,
    ),
    "list the models": ("listModels", lambda c, a: c.http.get("/models"), check_ok),
    "a model's window": ("getWindow", lambda c, a: c.http.get("/window?model=fake"), check_ok),
    "who am I": ("whoAmI", lambda c, a: c.http.get("/sign-in/me"), check_ok),
}


def test_every_operation_that_requires_authentication_is_covered() -> None:
    required = {id for id in OPERATIONS if "401" in operation(id)["responses"] and not id.startswith("head")}
    assert {id for id, _, _ in ATTEMPTS.values()} == required - {"signIn", "watchStatus", "getMetrics"}


@pytest.mark.parametrize("process", ["owner", "other"])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_resources_of_another_tenant_do_not_exist(
    cluster: Cluster, resources: Resources, ollama: ScriptedOllama, process: str, attempt: str
) -> None:
    _, send, check = ATTEMPTS[attempt]
    before = resources.client.history()
    ollama.default = (Head(), Lines(line("x"), last_line()))
    bob = cluster.client(process, "bob")
    with bob.http:
        check(send(bob, resources))
        for request in ollama.generations[2:]:
            assert "secret" not in request.body.decode()
    assert resources.client.history() == before
    assert resources.end == ["a", "b", ""]


@pytest.mark.parametrize("process", ["owner", "other"])
def test_principals_of_one_tenant_share_its_resources(cluster: Cluster, resources: Resources, process: str) -> None:
    anna = cluster.client(process, "anna", resources.client.appid)
    with anna.http:
        seen, own = anna.history(), resources.client.history()
        own["reply"].pop("context")  # which only the process that generates the reply knows
        seen["reply"].pop("context", None)
        assert seen == own
        assert anna.view(resources.ended)
        again = anna.http.post(
            "/llmchat", json=anna.body("x"), headers={"Idempotency-Key": "key", "Prefer": "respond-async"}
        )
        assert again.headers["Location"] == resources.ended
        assert anna.http.delete(resources.running).status_code == 202
        assert anna.view(resources.running)[-1].json["done_reason"] == "stopped"


def test_tenants_may_use_the_same_appid_concurrently(
    cluster: Cluster, resources: Resources, ollama: ScriptedOllama
) -> None:
    bob = cluster.client("owner", "bob", resources.client.appid)
    with bob.http:
        gate = Gate()
        ollama.script(Head(), Lines(line("x")), gate, Lines(last_line()))
        running = bob.begin("mine", headers={"Idempotency-Key": "running"})
        assert running != resources.running
        for client, own_reply in ((bob, running), (resources.client, resources.running)):
            for headers in ({"Prefer": "respond-async"}, {"Idempotency-Key": "unused key"}):
                rejected = client.http.post("/llmchat", json=client.body("another"), headers=headers)
                assert (rejected.status_code, rejected.headers["Location"]) == (409, own_reply)
        rejected = bob.http.post("/llmchat", json=bob.body("another"), headers={"Idempotency-Key": "key"})
        assert (rejected.status_code, rejected.headers["Location"]) == (409, running)
        assert resources.end == ["a", "b", ""]
        gate.open()
        bob.view(running)
        assert bob.messages() == [("user", "mine"), ("assistant", "x")]
        assert [content for _, content in resources.client.messages()][-2:] == ["more", "ab"]
        assert bob.http.delete("/llmchat", params={"appID": bob.appid}).status_code == 204
        assert bob.messages() == []
        assert len(resources.client.messages()) == 5


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
            check_not_found(bob.http.get(running))
            check_not_found(bob.http.delete(running))
            check_empty(bob.http.get("/llmchat", params={"appID": bob.appid}))
            gate.open()
            stream.rest()
        assert alice.messages() == [("user", "hi"), ("assistant", "ab")]
        check_not_found(bob.http.get(running))


def test_a_reply_without_its_log_still_belongs_to_its_tenant(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path
) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    tokens.add("alice")
    tokens.add("bob")
    program = start_chatterd(
        database_url=database_url, auth="token", token_file=tokens.path, data_dir=tmp_path, reply_log_retention=0
    )
    alice, bob = tokens.client(program.url, "alice"), tokens.client(program.url, "bob")
    with alice.http, bob.http:
        path = alice.begin("hi")
        alice.view(path)
        assert len(alice.view(path)) == 1
        check_not_found(bob.http.get(path))
        check_not_found(bob.http.get(path, headers={"Last-Event-ID": "0"}))
