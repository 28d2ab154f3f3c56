"""The balancers with TLS enabled: HTTP/2, over which all tabs of a browser share one connection."""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme

from tests.balancers import Balancer, free_ports
from tests.client import TIMEOUT, Client, Event
from tests.fakes.ollama import Gate, ScriptedOllama, Words
from tests.program import Program

TABS = 20
"""More than the six connections of a browser over HTTP/1.1."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.needs(name)) for name in ("haproxy", "nginx")])
def balancer(
    request: pytest.FixtureRequest, chatterd: Program, authority: trustme.CA, tmp_path: Path
) -> Iterator[Balancer]:
    certificate = tmp_path / "chatterd.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    port = urlsplit(chatterd.url).port
    assert port
    [own_port] = free_ports(1)
    with Balancer(request.param, own_port, [port] * 3, certificate) as balancer:
        yield balancer


@pytest.fixture
def client(balancer: Balancer, authority: trustme.CA) -> Iterator[Client]:
    """Yield a client with one connection, over HTTP/2 if the server offers it."""
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    client = Client(balancer.url)
    client.http.close()
    limits = httpx.Limits(max_connections=1)
    client.http = httpx.Client(
        base_url=balancer.url, timeout=TIMEOUT, trust_env=False, verify=trust, http2=True, limits=limits
    )
    yield client
    client.http.close()


def said(event: Event | None) -> str:
    assert event
    return str(event.json["message"]["content"])


def test_each_event_is_forwarded_without_buffering(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Words(hold={1: gate}))
    with client.prompt("hi", options={"num_predict": 3}) as stream:
        assert stream.response.http_version == "HTTP/2"
        assert said(stream.next()) == "w0 "
        gate.open()
        assert [said(event) for event in stream.rest()] == ["w1 ", "w2 ", ""]


def test_many_streams_share_a_connection(client: Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Words(hold={1: gate}))
    path = client.begin("hi", options={"num_predict": 2})
    with ExitStack() as open_streams:
        streams = [open_streams.enter_context(client.follow(path)) for _ in range(TABS)]
        assert [said(stream.next()) for stream in streams] == ["w0 "] * TABS
        gate.open()
        assert [[said(event) for event in stream.rest()] for stream in streams] == [["w1 ", ""]] * TABS


def test_a_client_without_http_2_is_served(client: Client, balancer: Balancer, authority: trustme.CA) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    answer = httpx.get(f"{balancer.url}/readyz", verify=trust)
    assert (answer.http_version, answer.status_code) == ("HTTP/1.1", 200)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_versions_of_tls_are_rejected(balancer: Balancer, authority: trustme.CA) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    trust.minimum_version = trust.maximum_version = ssl.TLSVersion.TLSv1_1
    trust.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{balancer.url}/readyz", verify=trust)
