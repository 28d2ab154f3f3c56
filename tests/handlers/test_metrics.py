"""GET /metrics: its formats, the values, and the number of series."""

import asyncio
import json
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack

import httpx
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tornado.routing import PathMatches

from db.pool import Database
from handlers import ROUTES
from handlers.pages import FileHandler
from relay.factory import create_relay
from relay.metrics import Metrics
from relay.ollama.client import OllamaClient
from relay.ollama.upstreams import Upstreams
from settings import VERSION, Settings
from tests.client import NO_TLS, Client
from tests.database import eventually
from tests.fakes.ollama import End, Gate, Head, Lines, ScriptedOllama, failure, last_line, line
from tests.fakes.proxy import CuttingProxy
from tests.metrics import Scraped, scrape
from tests.program import ROOT, Program
from tests.raw import raw

Start = Callable[..., Program]

DOCUMENT = json.loads((ROOT / "static" / "openapi.json").read_text())


# Formats.


@pytest.mark.needs("prometheus")
def test_promtool_reports_nothing(client: Client) -> None:
    client.ask("hi")
    response = client.http.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    done = subprocess.run(["promtool", "check", "metrics"], input=response.text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_openmetrics_is_returned_if_accepted(client: Client) -> None:
    client.ask("hi")
    accepted = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"  # Prometheus 2.42
    response = client.http.get("/metrics", headers={"Accept": accepted})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0;")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}  # type: ignore[no-untyped-call]
    assert families["chatterd_line_latency_seconds"].type == "histogram"  # the parser requires integers
    assert families["chatterd_http_request_duration_seconds"].unit in ("", "seconds")
    assert {name.split("_")[0] for name in families} == {"chatterd", "process", "python"}
    assert all(family.documentation.strip() for family in families.values())


@pytest.mark.parametrize(
    "accepted",
    [
        "",
        "*/*",
        "application/json",
        "application/openmetrics-text;version=x",
        "text/plain;version=x.y",
        ";,;q=",
        "a" * 999,
    ],
)
def test_any_accept_header_is_accepted(client: Client, accepted: str) -> None:
    assert client.http.get("/metrics", headers={"Accept": accepted}).status_code == 200


def test_version_is_reported(chatterd: Program) -> None:
    assert DOCUMENT["info"]["version"] == VERSION
    assert f'version="{VERSION}"' in httpx.get(f"{chatterd.url}/metrics", verify=NO_TLS).text


def test_every_route_is_labelled_with_its_path_in_openapi() -> None:
    for path in DOCUMENT["paths"]:
        address = path.replace("{", "").replace("}", "")
        rule = next(
            rule for rule in ROUTES if isinstance(rule.matcher, PathMatches) and rule.matcher.regex.match(address)
        )
        assert rule.target.route == ("/static/{file}" if rule.target is FileHandler else path)


# Values.


def test_replies_and_their_viewers_are_counted(
    start_chatterd: Start, ollama: ScriptedOllama, database_url: str
) -> None:
    end = Gate("the end")
    ollama.script(Head(), Lines(*(line(f"w{n} ") for n in range(7))), end, Lines(last_line()))
    ollama.script(failure(404, "model 'fake' not found"))
    ollama.script(Head(), Lines(line("a")), End())
    ollama.script(Head(), Lines(line("a")), Gate("never"))
    program = start_chatterd(database_url=database_url, max_replies=7)
    client = Client(program.url)
    idle = scrape(program.url)
    assert [idle[name] for name in ("replies_begun_total", "lines_total", "replies_running", "viewers")] == [0] * 4
    assert [idle[name] for name in ("replies_max", "ready", "database_up", "ollama_up", "draining")] == [7, 1, 1, 1, 0]
    with client.http:
        with client.prompt("hi") as stream:
            assert [stream.next() is not None for _ in range(7)] == [True] * 7
            with client.follow(stream.response.headers["Content-Location"]) as other:
                busy = eventually(
                    "two viewers",
                    lambda: (now := scrape(program.url))["viewers"] == 2 and now["lines_total"] == 7 and now,
                )
                assert (busy["replies_running"], busy["replies_begun_total"]) == (1, 1)
                assert busy["replies_ended_total"] == 0
                end.open()
                assert len(stream.rest()) == 1
                assert len(other.rest()) == 8
        client.ask("fails")
        client.ask("is truncated")
        stopped = client.begin("is stopped")
        assert client.http.delete(stopped).status_code == 202
        client.view(stopped)
        counted = eventually("no request is running", lambda: _when_idle(scrape(program.url), requests=7))
    ended = {"done": 1, "stopped": 1, "failed": 1, "truncated": 1, "interrupted": 0}
    for status, count in ended.items():
        assert counted.of("replies_ended_total", status=status) == count
        assert counted.of("reply_duration_seconds_count", status=status) == count
    assert counted["replies_begun_total"] == counted["first_event_seconds_count"] == 4
    lines = 8 + 1 + 2 + 2
    assert lines - 1 <= counted["lines_total"] <= lines  # the reply may be stopped before its line is read
    assert counted["line_latency_seconds_count"] <= lines - 4  # a reply's last line is sent when its end is stored
    assert counted.of("tokens_total", kind="prompt") == 10
    assert counted.of("tokens_total", kind="reply") == 5
    assert counted["begin_statement_seconds_count"] == 4
    assert counted["end_statement_seconds_count"] == 4
    assert counted["journal_batch_seconds_count"] > 0
    assert counted["database_wait_seconds_count"] >= 8
    eventually("the lag is measured", lambda: scrape(program.url)["event_loop_lag_seconds_count"] > 0)
    assert 1 <= counted["database_connections"] <= counted["database_connections_max"] == 10


def _when_idle(now: Scraped, requests: int) -> Scraped | None:
    completed = now["http_requests_total"] - now.of("http_requests_total", method="GET", route="/metrics", status="200")
    return now if completed >= requests and not now["viewers"] and not now["replies_running"] else None


def test_requests_are_counted_by_method_route_and_status(start_chatterd: Start, database_url: str) -> None:
    program = start_chatterd(database_url=database_url)
    client = Client(program.url)
    with client.http as http:
        path = client.begin("hi")
        client.view(path)
        http.get("/llmchat", params={"appID": client.appid})
        http.get("/llmchat", params={"appID": client.appid, "limit": "x"})
        http.post("/llmchat", content=b"{}")
        http.post("/llmprompt", json={"model": "fake", "prompt": "hi"})
        for address in ("/models", "/healthz", "/readyz", "/", "/docs", "/static/shared/api.js"):
            assert http.get(address).status_code == 200
        counted = eventually("all requests are counted", lambda: _when_idle(scrape(program.url), requests=12))
        expected = {
            ("POST", "/llmchat", "202"): 1,
            ("GET", "/llmchat/{replyId}", "200"): 1,
            ("GET", "/llmchat", "200"): 1,
            ("GET", "/llmchat", "400"): 1,
            ("POST", "/llmchat", "415"): 1,
            ("POST", "/llmprompt", "200"): 1,
            ("GET", "/models", "200"): 1,
            ("GET", "/healthz", "200"): 1,
            ("GET", "/readyz", "200"): 1,
            ("GET", "/static/{file}", "200"): 3,
        }
        for (method, route, status), count in expected.items():
            assert counted.of("http_requests_total", method=method, route=route, status=status) == count
        assert counted.of("http_request_duration_seconds_count", route="/llmchat") == 4
        assert counted.of("http_request_duration_seconds_count", route="/llmchat/{replyId}") == 0  # a stream
        assert counted.of("http_request_duration_seconds_count", route="/llmprompt") == 0  # likewise


def test_clients_cannot_create_series(start_chatterd: Start, database_url: str) -> None:
    program = start_chatterd(database_url=database_url)
    with httpx.Client(base_url=program.url, trust_env=False, verify=NO_TLS) as http:

        def send_all(number: int) -> None:
            http.get(f"/no/such/place-{number}?q={number}")
            http.get(f"/llmchat/{number}")
            http.get(f"/static/{number}.js")
            http.request(f"METHOD{number}", "/llmchat")
            http.post("/llmchat", json={"appID": f"a{number}", "model": f"m{number}", "messages": []})
            with raw(program.url) as connection:
                connection.send(f"METHOD{number} /{number} HTTP/2.{number}\r\n\r\n".encode())
                connection.rest()

        send_all(0)
        eventually("all requests are counted", lambda: _when_idle(scrape(program.url), requests=5))
        before = scrape(program.url).series()
        for number in range(1, 20):
            send_all(number)
        assert (
            eventually("all requests are counted", lambda: _when_idle(scrape(program.url), requests=100)).series()
            == before
        )


def test_each_metric_is_exported(database_url: str, ollama: ScriptedOllama) -> None:
    """Values that are hard to cause are set directly."""

    async def set_and_scrape() -> Scraped:
        settings = Settings(database_url=database_url)
        async with AsyncExitStack() as parts:
            database = Database(database_url, settings.pool_size, settings.acquire_timeout)
            parts.push_async_callback(database.close)
            await database.open()
            model = OllamaClient(ollama.url, settings.max_replies, settings.connect_timeout)
            parts.callback(model.close)
            metrics = Metrics()
            relay = await create_relay(parts, database, Upstreams(model), settings, metrics)
            metrics.replies_adopted, metrics.replies_handed_over, metrics.viewers_dropped = 3, 4, 5
            metrics.replies_continued = 6
            metrics.line_latency.spread(0.0005, 0.0015, 3)  # of which 1.5 lie in each of two buckets
            metrics.loop_lag.observe(7.0)
            async with database.acquire(), database.acquire(), database.acquire():
                await relay.prometheus.refresh()
                return Scraped(generate_latest(relay.prometheus.registry).decode())

    scraped = asyncio.run(set_and_scrape())
    totals = ("replies_adopted", "replies_handed_over", "viewers_dropped", "replies_continued")
    assert [scraped[f"{name}_total"] for name in totals] == [3, 4, 5, 6]
    assert [scraped.of("line_latency_seconds_bucket", le=bound) for bound in ("0.001", "0.002", "+Inf")] == [2, 3, 3]
    assert scraped["line_latency_seconds_sum"] == pytest.approx(0.003)
    assert (
        scraped.of("event_loop_lag_seconds_bucket", le="+Inf") - scraped.of("event_loop_lag_seconds_bucket", le="5.0")
        == 1
    )
    lent, idle = (scraped.of("database_connections", state=state) for state in ("lent", "idle"))
    assert lent >= 3  # the sweeper may use one, too
    assert 4 <= lent + idle <= scraped["database_connections_max"] == 10


# Database, Ollama, draining.


@pytest.mark.expects_log("database", "presence session was lost", "pool connection floor", "declared dead")
def test_unreachable_database_is_reported(start_chatterd: Start, database_url: str) -> None:
    with CuttingProxy(database_url) as proxy:
        program = start_chatterd(database_url=proxy.url, acquire_timeout=1)
        assert [scrape(program.url)[name] for name in ("database_up", "ready")] == [1, 1]
        proxy.cut()
        eventually("it is reported", lambda: _are(program, ("database_up", "ready"), 0))
        proxy.restore()
        eventually("it is reported", lambda: _are(program, ("database_up", "ready"), 1))


def _are(program: Program, names: tuple[str, ...], value: float) -> bool:
    now = scrape(program.url)
    return all(now[name] == value for name in names)


def test_unreachable_ollama_is_reported(chatterd: Program, ollama: ScriptedOllama) -> None:
    assert eventually("it is reachable", lambda: _are(chatterd, ("ollama_up",), 1))
    ollama.stop_listening()
    ollama.cut_connections()
    eventually("it is unreachable", lambda: _are(chatterd, ("ollama_up",), 0))
    assert scrape(chatterd.url)["ready"] == 1
    ollama.listen_again()
    eventually("it is reachable again", lambda: _are(chatterd, ("ollama_up",), 1))


def test_draining_is_reported(start_chatterd: Start, ollama: ScriptedOllama, database_url: str) -> None:
    gate = Gate("the end")
    ollama.script(Head(), Lines(line("a")), gate, Lines(last_line("b")))
    program = start_chatterd(database_url=database_url, drain_timeout=20)
    client = Client(program.url)
    with client.http, client.prompt("hi") as stream:
        assert stream.next() is not None
        program.process.terminate()
        program.wait_log("Waiting 20 s at most for 1 replies")
        now = scrape(program.url)
        assert (now["draining"], now["ready"], now["database_up"]) == (1, 0, 1)
        gate.open()
        stream.rest()
        assert program.wait() == 0
