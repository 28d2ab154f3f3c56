"""The house rules that a program can check: imports run downwards, files open with a sentence, the README is whole."""

import ast
import dataclasses
import graphlib
from pathlib import Path

import pytest

from settings import Settings

ROOT = Path(__file__).parent.parent
FLOORS = ["server", "handlers", "relay", "db"]
"""From the top down; a room may import from its own floor and those below."""

RELAY_FLOORS = [
    ["relay.factory"],
    ["relay.reporting"],
    ["relay.service", "relay.failover", "relay.sweeper"],
    ["relay.stream"],
    ["relay.generation"],
    ["relay.cluster", "relay.ollama", "relay.metrics"],
]
"""The modules and packages of relay/ from the top down; a module may import from its own floor and those below."""

COMMON = {"errors", "log_format", "settings"}
FOLDERS = ("handlers", "auth", "relay", "db", "embedded")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names} & {*FLOORS, *COMMON, "auth", "embedded", "tests"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards_only(path: Path) -> None:
    home = room(path)
    below = {*FLOORS[FLOORS.index(home) :]} if home in FLOORS else {home}
    allowed = {
        "server": below | COMMON | {"auth", "embedded"},
        "handlers": below | COMMON | {"auth"},
        "auth": {"auth"} | COMMON,
        "embedded": {"embedded", "log_format", "relay", "settings"},
        "settings": {"settings"},
        "errors": {"errors"},
        "log_format": {"errors", "log_format"},
    }.get(home, below | COMMON)
    assert imported_rooms(path) <= allowed


RELAY_SOURCES = [path for path in SOURCES if room(path) == "relay" and path.name != "__init__.py"]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


RELAY_MODULES = {module_name(path) for path in RELAY_SOURCES}


def imported_relay_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & RELAY_MODULES


def relay_floor(module: str) -> int:
    found = [
        floor
        for floor, names in enumerate(RELAY_FLOORS)
        if any(module == name or module.startswith(f"{name}.") for name in names)
    ]
    assert len(found) == 1, f"{module} has no floor"
    return found[0]


@pytest.mark.parametrize("path", RELAY_SOURCES, ids=module_name)
def test_imports_within_relay_run_downwards_only(path: Path) -> None:
    home = relay_floor(module_name(path))
    assert [name for name in imported_relay_modules(path) if relay_floor(name) < home] == []


def test_imports_within_relay_have_no_cycle() -> None:
    imports = {module_name(path): imported_relay_modules(path) for path in RELAY_SOURCES}
    assert len(list(graphlib.TopologicalSorter(imports).static_order())) == len(RELAY_MODULES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_is_at_home_there(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_no_sql_outside_db_and_no_http_handlers_outside_handlers() -> None:
    for path in SOURCES:
        if room(path) == "relay":
            source = path.read_text()
            assert "from tornado.web" not in source and "SELECT " not in source, path


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_every_setting_is_documented(name: str) -> None:
    assert f"`--{name.replace('_', '-')}`" in (ROOT / "docs/settings.md").read_text()
