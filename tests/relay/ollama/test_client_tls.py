"""chatterd with an Ollama behind TLS: streaming, stopping, and certificates that are not trusted."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.client import Client
from tests.database import reply_row
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext:
    """The server's context: its certificate is for the name in the test's parameter, by default for the right one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(getattr(request, "param", "127.0.0.1")).configure_cert(context)
    return context


@pytest.fixture
def behind_tls(tls: ssl.SSLContext) -> Iterator[ScriptedOllama]:
    with ScriptedOllama(tls) as ollama:
        yield ollama


@pytest.fixture
def asker(
    start_chatterd: Callable[..., Program],
    behind_tls: ScriptedOllama,
    database_url: str,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Client]:
    """Client of a chatterd that trusts the authority."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    client = Client(start_chatterd(database_url=database_url, ollama_host=behind_tls.url).url)
    with client.http:
        yield client


def test_a_reply_is_streamed(asker: Client, behind_tls: ScriptedOllama) -> None:
    gate = Gate()
    behind_tls.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    with asker.prompt("x" * 1_000_000) as stream:
        first = stream.next()
        assert first is not None and first.json["message"]["content"] == "a"
        gate.open()
        assert stream.rest()[-1].json["done"] is True
    assert asker.messages()[-1] == ("assistant", "ab")
    assert asker.http.get("/models").json()["models"][0]["name"] == "fake"


def test_stopping_a_reply_closes_the_connection(asker: Client, behind_tls: ScriptedOllama) -> None:
    behind_tls.script(Head(), Lines(line("a")), Gate())
    with asker.prompt("hi") as stream:
        assert stream.next()
        assert asker.http.delete(stream.response.headers["Content-Location"]).status_code == 202
        assert stream.rest()[-1].json["done_reason"] == "stopped"
    behind_tls.arrival(0).wait().closed.wait()
    assert asker.messages()[-1] == ("assistant", "a")


def test_a_reply_is_continued_after_a_lost_connection(asker: Client, behind_tls: ScriptedOllama) -> None:
    gate = Gate()
    behind_tls.script(Head(), Lines(line("a")), gate)
    with asker.prompt("hi") as stream:
        assert stream.next()
        gate.reached.wait()
        behind_tls.cut_connections()
        events = stream.rest()
    assert events[-1].json["done"]
    assert asker.messages()[-1] == ("assistant", "aw1 w2 w3 w4 ")


@pytest.mark.expects_log("Ollama is unreachable at")
@pytest.mark.parametrize("tls", ["elsewhere.example"], indirect=True)
def test_a_wrong_certificate_is_reported_and_no_request_is_sent(
    asker: Client, behind_tls: ScriptedOllama, database_url: str
) -> None:
    with asker.prompt("hi") as stream:
        events = stream.rest()
    assert [event.name for event in events] == ["error"]
    assert events[0].json["error"].startswith("Ollama's certificate is not trusted.")
    row = reply_row(database_url, stream.response.headers["Content-Location"])
    assert (row["status"], row["error"]) == ("failed", events[0].json["error"])
    assert asker.http.get("/models").status_code == 503
    assert asker.http.get("/readyz").json()["ollama"] == "unreachable"
    assert not behind_tls.requests and not behind_tls.probes
