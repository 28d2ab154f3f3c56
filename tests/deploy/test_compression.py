"""Proxies that compress do not hold events back: Express' middleware, nginx and HAProxy, set up to compress all."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.balancers import Balancer, free_ports
from tests.client import NO_TLS, TIMEOUT, Client
from tests.fakes.ollama import Gate, Head, Lines, ScriptedOllama, last_line, line
from tests.program import Program

HERE = Path(__file__).parent

NGINX = """
worker_processes 1;
events {}
http {
    access_log off;
    gzip on;
    gzip_min_length 0;
    gzip_proxied any;
    gzip_types application/json text/event-stream application/x-ndjson;
    server {
        listen 127.0.0.1:%d;
        location / {
            proxy_http_version 1.1;
            proxy_pass http://127.0.0.1:%d;
        }
    }
}
"""
"""Without ``proxy_buffering off``, which deploy/nginx.conf has: the response's own header must do."""

HAPROXY = """
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    compression algo gzip
    compression type application/json text/event-stream application/x-ndjson
listen chatterd
    bind 127.0.0.1:%d
    server chatterd 127.0.0.1:%d
"""

CONFIGURATIONS = {"nginx": NGINX, "haproxy": HAPROXY}


class CompressingBalancer(Balancer):
    """nginx or HAProxy that compresses everything it may."""

    def __init__(self, name: str, server: int) -> None:
        super().__init__(name, free_ports(1)[0], [server])

    def _configuration(self, servers: Sequence[int], certificate: Path | None) -> str:
        return CONFIGURATIONS[self.name] % (self.port, servers[0])


@contextmanager
def express(url: str) -> Iterator[str]:
    """Run the proxy with Express' middleware; yield its URL."""
    command = ["node", "compressing_proxy.mjs", url]
    with subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdin and proxy.stdout
        try:
            yield proxy.stdout.readline().strip()
        finally:
            proxy.stdin.close()


@pytest.fixture(
    params=[
        pytest.param("express", marks=pytest.mark.needs("npm")),
        pytest.param("nginx", marks=pytest.mark.needs("nginx")),
        pytest.param("haproxy", marks=pytest.mark.needs("haproxy")),
    ]
)
def through(request: pytest.FixtureRequest, chatterd: Program) -> Iterator[httpx.Client]:
    """Yield a client that accepts compressed responses, of a proxy that compresses."""
    with compressing(request.param, chatterd.url) as url:
        headers = {"Accept-Encoding": "gzip"}
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT, trust_env=False, verify=NO_TLS) as client:
            yield client


@contextmanager
def compressing(name: str, url: str) -> Iterator[str]:
    if name == "express":
        with express(url) as proxied:
            yield proxied
    else:
        with CompressingBalancer(name, int(url.rsplit(":", 1)[1])) as balancer:
            yield balancer.url


def test_the_proxy_compresses_what_is_no_stream(through: httpx.Client) -> None:
    assert through.get("/models").headers["Content-Encoding"] == "gzip"


def test_events_pass_a_proxy_that_compresses_at_once(
    through: httpx.Client, client: Client, ollama: ScriptedOllama
) -> None:
    gates = [Gate(), Gate()]
    ollama.script(Head(), Lines(line("a")), gates[0], Lines(line("b")), gates[1], Lines(last_line("c")))
    with through.stream("POST", "/llmchat", json=client.body("hi")) as response:
        lines = response.iter_lines()
        assert next(lines) == "id: 0"
        gates[0].open()
        assert '"content":"b"' in next(found for found in lines if '"content":"b"' in found)
        gates[1].open()
        assert '"done":true' in next(found for found in lines if '"done":true' in found)
        assert list(lines) == [""]


def test_ollamas_lines_pass_a_proxy_that_compresses_at_once(through: httpx.Client, ollama: ScriptedOllama) -> None:
    gate = Gate()
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    with through.stream("POST", "/llmprompt", json={"model": "fake", "prompt": "hi"}) as response:
        lines = response.iter_lines()
        assert '"content":"a"' in next(lines)
        gate.open()
        assert '"done":true' in next(lines)


def test_status_events_pass_a_proxy_that_compresses_at_once(through: httpx.Client) -> None:
    with through.stream("GET", "/status/events") as response:
        assert next(response.iter_lines()).startswith("id: ")
