"""The image and the compose file, checked as far as possible without a Docker engine."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from settings import Settings
from tests.balancers import DEPLOY, free_ports
from tests.client import Client
from tests.database import eventually
from tests.fakes.ollama import ScriptedOllama
from tests.program import ALARMING, ROOT

COMPOSE = DEPLOY / "compose.yaml"
DOCKERFILE = DEPLOY / "Dockerfile"

KNOWN = {field.name.replace("_", "-") for field in fields(Settings)}

CHATTERDS = ("chatterd-1", "chatterd-2", "chatterd-3")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Return the parsed compose file."""
    return dict(yaml.safe_load(COMPOSE.read_text()))


def instructions(name: str) -> list[str]:
    """Return the arguments of the Dockerfile's instructions of that name."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return re.findall(rf"^ *{name} +(?:--\w+=\S+ +)*(.+)$", text, flags=re.MULTILINE)


def copied() -> list[str]:
    """Return the files and folders that the image copies from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return [name for line in lines for name in line.split()]


def health_check(port: int) -> list[str]:
    """Return the image's health check for another port."""
    [line] = re.findall(r" CMD (\[.*\])$", instructions("HEALTHCHECK")[0])
    command = [str(word).replace("8000", str(port)) for word in yaml.safe_load(line)]
    assert command[0] == "python" and str(port) in command[-1]
    return [sys.executable, *command[1:]]


def options(command: list[str]) -> dict[str, str]:
    """Return the settings on a command line by name."""
    return {name.removeprefix("--"): value for name, _, value in (word.partition("=") for word in command)}


def seconds(time: str) -> float:
    return float(time.removesuffix("s"))


def test_hadolint_accepts_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_copied_files_exist_and_are_not_ignored() -> None:
    untracked = (ROOT / ".gitignore").read_text().split()
    for name in copied():
        assert (ROOT / name).exists() and f"/{name}" not in untracked, name
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    assert sorted(re.findall(r"^!(\S+)$", ignored, flags=re.MULTILINE)) == sorted(copied())


def test_every_setting_exists(compose: dict[str, Any]) -> None:
    environment = {field.metadata["env"] for field in fields(Settings)} | {"PGPASSWORD"}
    [image_command] = instructions("CMD")
    assert options(yaml.safe_load(image_command)).keys() <= KNOWN
    for name in CHATTERDS:
        service = compose["services"][name]
        assert options(service["command"]).keys() <= KNOWN
        exported = set(re.findall(r"export (\w+)=", service["entrypoint"][2]))
        assert service["environment"].keys() | exported <= environment


def test_names_are_consistent(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in compose["services"][needed], name
        assert set(service.get("secrets", [])) <= compose["secrets"].keys()
        assert set(service["networks"]) <= compose["networks"].keys()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file(), source
        assert "build" in service or re.search(r":\d[\w.-]*$", service["image"]), f"{name} names no version"
    for name in CHATTERDS:
        service = compose["services"][name]
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve() == DOCKERFILE
        assert service["environment"]["OLLAMA_HOST"].split(":")[0] in compose["services"]
        assert re.search(r"@(\w+)/", service["environment"]["DATABASE_URL"])[1] in compose["services"]  # type: ignore[index]
        said = set(re.findall(r"/run/secrets/(\w+)", str([service["entrypoint"], service["command"]])))
        assert said == set(service["secrets"])


def test_haproxy_connects_to_the_ports_of_chatterd(compose: dict[str, Any]) -> None:
    servers = re.findall(r"^ *server (\S+) (\S+):(\d+)$", (DEPLOY / "haproxy-compose.cfg").read_text(), re.MULTILINE)
    assert [host for _, host, _ in servers] == list(CHATTERDS)
    for _, host, port in servers:
        assert options(compose["services"][host]["command"])["port"] == port
    [published] = compose["services"]["haproxy"]["ports"]
    assert f"bind :{published.split(':')[-1]}\n" in (DEPLOY / "haproxy-compose.cfg").read_text()


@pytest.mark.needs("haproxy")
def test_haproxy_of_compose_is_configured_as_the_tested_one() -> None:
    """Except for the lines with addresses of the listener and of the servers."""
    differing = re.compile(r"^(#.*\n|$)|^ *(server |bind |#.*(machine|reaches it)|default-server )")

    def same(file: str) -> list[str]:
        text = re.sub(r"# A container[^\n]*\nresolvers docker\n(?: +.*\n)+\n", "", (DEPLOY / file).read_text())
        return [line for line in text[text.index("global\n") :].splitlines() if not differing.match(line)]

    assert same("haproxy-compose.cfg") == same("haproxy.cfg")
    done = subprocess.run(["haproxy", "-c", "-f", str(DEPLOY / "haproxy-compose.cfg")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all("could not resolve" in line for line in done.stderr.splitlines() if "[WARNING]" in line)


def test_the_stop_grace_period_exceeds_the_drain_timeout(compose: dict[str, Any]) -> None:
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    for name in CHATTERDS:
        service = compose["services"][name]
        drain = float(options(service["command"]).get("drain-timeout", Settings.drain_timeout))
        assert seconds(service["stop_grace_period"]) >= drain + 4


@contextmanager
def container(
    compose: dict[str, Any], folder: Path, port: int, database_url: str, ollama: ScriptedOllama
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a chatterd as in its container, with the image's files and the service's command."""
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "image" / name)
        else:
            (folder / "image").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / "image")
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "database_password").write_text("secret\n")
    (secrets / "cookie_secret").write_text("0123456789abcdef" * 4 + "\n")
    (secrets / "tokens").touch()
    service = compose["services"][CHATTERDS[0]]
    command = [
        word.replace("/run/secrets", str(secrets)).replace("0.0.0.0", "127.0.0.1").replace("8000", str(port))
        for word in (*service["entrypoint"], *service["command"])
    ]
    # Docker Compose replaces two dollar signs by one.
    command = [word.replace("$$", "$").replace("exec python ", f"exec {sys.executable} ") for word in command]
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "OLLAMA_HOST": ollama.url}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder / "image", env=environment, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.extended
def test_the_image_s_files_and_the_service_s_command_run_chatterd(
    compose: dict[str, Any], tmp_path: Path, database_url: str, ollama: ScriptedOllama
) -> None:
    [port] = free_ports(1)

    def healthy() -> bool:
        return subprocess.run(health_check(port), stderr=subprocess.DEVNULL).returncode == 0

    assert not healthy()
    with container(compose, tmp_path, port, database_url, ollama) as process:
        eventually("healthy", lambda: healthy() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "log").read_text()
        client = Client(f"http://127.0.0.1:{port}")
        with client.http:
            # The token file is empty.
            assert client.http.post("/llmchat", json=client.body("hi")).status_code == 401
        process.send_signal(signal.SIGTERM)
        grace = seconds(compose["services"][CHATTERDS[0]]["stop_grace_period"])
        assert process.wait(grace) == 0
    assert not re.search(ALARMING, (tmp_path / "log").read_text())
