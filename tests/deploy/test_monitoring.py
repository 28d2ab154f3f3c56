"""The files of deploy/ for Prometheus and Grafana: checked by promtool, and in use by a real Prometheus."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.balancers import DEPLOY, free_ports, with_ports
from tests.client import NO_TLS, Client
from tests.database import eventually
from tests.metrics import scrape
from tests.program import ROOT, Program

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
ALERTS_TEST: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "deploy" / "alerts_test.yml").read_text())

NAME = re.compile(r"\b(?:chatterd|process|python)_\w+")
"""Matches the names of metrics in an expression."""

START_TIMEOUT = 60.0
"""Seconds until Prometheus must have scraped chatterd."""


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Return the dashboard's expressions as Grafana sends them with all values selected."""
    chosen = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".+", "$instance": ".+"}
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    for variable, value in chosen.items():
        found = [expression.replace(variable, value) for expression in found]
    return found


def queries() -> list[str]:
    """Return the queries of the dashboard's variables."""
    return [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]


# The alerts.


def promtool(*arguments: object) -> str:
    """Run promtool and return its output.

    :raises AssertionError: it fails; the message is its output.
    """
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.needs("prometheus")
def test_promtool_accepts_the_alerts() -> None:
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", DEPLOY / "alerts.yml")


@pytest.mark.needs("prometheus")
def test_promtool_accepts_the_configuration() -> None:
    assert "1 rule files found" in promtool("check", "config", DEPLOY / "prometheus.yml")


@pytest.mark.needs("prometheus")
@pytest.mark.extended
def test_promtool_finds_each_alert_to_fire_as_tested() -> None:
    assert "SUCCESS" in promtool("test", "rules", ROOT / "tests" / "deploy" / "alerts_test.yml")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_each_alert_is_tested_firing_and_silent_and_documents_an_action(alert: dict[str, Any]) -> None:
    checks = [
        check
        for test in ALERTS_TEST["tests"]
        for check in test["alert_rule_test"]
        if check["alertname"] == alert["alert"]
    ]
    assert {bool(check["exp_alerts"]) for check in checks} == {True, False}
    assert alert["annotations"].keys() == {"summary", "description", "action"}
    assert alert["labels"]["severity"] in ("critical", "warning")
    titles = {panel["title"] for panel in DASHBOARD["panels"]}
    assert set(re.findall(r'dashboard, "(.+?)"', alert["annotations"]["action"])) <= titles


# All expressions.


def test_alerts_and_dashboard_use_only_existing_metrics(client: Client) -> None:
    client.ask("hi")
    client.http.get("/healthz")
    there = scrape(str(client.http.base_url).rstrip("/")).names
    asked = [*expressions(), *queries(), *(str(alert["expr"]) for alert in ALERTS)]
    named = {name for expression in asked for name in NAME.findall(expression)}
    assert named <= there
    assert len(named) > 30


def test_the_dashboard_is_valid() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert {panel["type"] for panel in DASHBOARD["panels"]} == {"row", "stat", "timeseries"}
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert all('job=~"$job",instance=~"$instance"' in target["expr"] for target in panel["targets"])
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
    places = {
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    }
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in DASHBOARD["panels"])


# In use.


class Prometheus:
    """A running Prometheus with the shipped files, with other ports and shorter intervals."""

    def __init__(self, folder: Path, port: int, servers: list[int]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        shutil.copy(DEPLOY / "alerts.yml", folder)
        configuration = with_ports((DEPLOY / "prometheus.yml").read_text(), port, servers)
        file = folder / "prometheus.yml"
        file.write_text(configuration.replace(": 15s", ": 1s").replace("scrape_timeout: 10s", "scrape_timeout: 1s"))
        self._log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "GOMAXPROCS": "1"},
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current result of an expression; nothing while Prometheus starts."""
        try:
            answer = httpx.get(
                f"{self.url}/api/v1/query", params={"query": expression}, trust_env=False, verify=NO_TLS, timeout=20
            )
        except httpx.ConnectError:
            return []
        if answer.status_code == 503:
            return []
        assert answer.status_code == 200, (expression, answer.text)
        return list(answer.json()["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Return the loaded alerts."""
        answer = httpx.get(f"{self.url}/api/v1/rules", trust_env=False, verify=NO_TLS, timeout=20)
        return [rule for group in answer.json()["data"]["groups"] for rule in group["rules"]]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(START_TIMEOUT)
        self._log.close()


@pytest.fixture
def prometheus(
    tmp_path: Path, start_chatterd: Callable[..., Program], database_url: str
) -> Iterator[tuple[Prometheus, Program]]:
    port, *servers = free_ports(4)
    program = start_chatterd(port=servers[0], database_url=database_url)
    running = Prometheus(tmp_path, port, servers)
    yield running, program
    running.stop()
    shutil.rmtree(tmp_path)


@pytest.mark.needs("prometheus")
@pytest.mark.extended
def test_a_real_prometheus_scrapes_chatterd_and_answers_the_dashboard_s_queries(
    prometheus: tuple[Prometheus, Program],
) -> None:
    server, program = prometheus
    client = Client(program.url)
    with client.http:
        eventually("it was asked", lambda: server.query("chatterd_ready == 1"), START_TIMEOUT)
        client.ask("hi")
        client.http.get("/no/such/place")
    eventually("it was asked again", lambda: server.query("rate(chatterd_lines_total[1m]) > 0"), START_TIMEOUT)
    assert [result["value"][1] for result in server.query("up")].count("1") == 1  # the other two servers do not exist
    for expression in expressions():
        eventually(expression, lambda asked=expression: server.query(asked), START_TIMEOUT)  # type: ignore[misc]
    eventually("it evaluates them", lambda: all(rule["health"] == "ok" for rule in server.rules()), START_TIMEOUT)
    assert [rule["name"] for rule in server.rules()] == [alert["alert"] for alert in ALERTS]
    assert not [rule["name"] for rule in server.rules() if rule["state"] == "firing"]
