"""The rules of CONTRIBUTING.md that a program can check: import direction, sizes of folders, public interfaces only."""

import ast
import dataclasses
import functools
import graphlib
import importlib
import inspect
import itertools
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from settings import Settings

ROOT = Path(__file__).parent.parent

LAYERS = [
    ["server"],
    ["embedded"],
    ["handlers"],
    ["web"],
    ["relay.factory"],
    ["relay.reporting"],
    ["relay.conversations"],
    ["relay.service", "relay.waiting", "relay.supersession", "relay.failover", "relay.sweeper"],
    ["relay.summary"],
    ["relay.stream"],
    ["relay.generation", "relay.components"],
    ["relay.window"],
    ["relay.cluster", "relay.ollama", "relay.metrics", "relay.sender_shares"],
    ["relay.outgoing"],
    ["relay.memory_budget"],
    ["db"],
    ["auth"],
    ["logging_setup"],
    ["command_line", "listening", "stop_signals"],
    ["errors", "json_text", "settings", "set_up"],
]
"""Modules and packages from the top down. A module may import from its own layer and from those below."""

INDEPENDENT = {
    "auth": {"errors", "settings"},
    "embedded": {"auth", "command_line", "errors", "listening", "logging_setup", "relay", "settings"},
}
"""Packages that may only import themselves and these."""

FOLDER_LIMIT = 13
"""Files in one folder of the product."""

FOLDERS = ("auth", "db", "embedded", "handlers", "relay", "web")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


@functools.cache
def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imported_modules(path: Path) -> set[str]:
    """The product's modules that a file imports; a package counts only where nothing more specific is imported."""
    names = set()
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES
            names |= members or {node.module}
    return names & MODULES


def layer(module: str) -> int:
    matches = [
        index
        for index, names in enumerate(LAYERS)
        if any(module == name or module.startswith(f"{name}.") for name in names)
    ]
    assert len(matches) == 1, f"{module} has no layer"
    return matches[0]


def test_imports_run_downwards_only() -> None:
    upwards = {}
    for path in SOURCES:
        module = module_name(path)
        if module != "relay" and (names := {name for name in imported_modules(path) if layer(name) < layer(module)}):
            upwards[module] = names
    assert upwards == {}


@pytest.mark.parametrize("package", INDEPENDENT)
def test_an_independent_package_imports_only_what_it_may(package: str) -> None:
    paths = [path for path in SOURCES if module_name(path).partition(".")[0] == package]
    others = {name.partition(".")[0] for path in paths for name in imported_modules(path)} - {package}
    assert others <= INDEPENDENT[package]


def test_imports_have_no_cycle() -> None:
    imports = {module_name(path): imported_modules(path) - {module_name(path)} for path in SOURCES}
    assert len(list(graphlib.TopologicalSorter(imports).static_order())) == len(MODULES)


def test_every_file_opens_with_its_purpose() -> None:
    assert [module_name(path) for path in SOURCES if not ast.get_docstring(syntax_tree(path))] == []


def test_no_folder_is_crowded() -> None:
    counts = Counter(path.parent.relative_to(ROOT) for path in SOURCES)
    assert {str(folder): count for folder, count in counts.items() if count > FOLDER_LIMIT} == {}


def test_relay_contains_neither_sql_nor_request_handlers() -> None:
    for path in SOURCES:
        if module_name(path).startswith("relay"):
            source = path.read_text()
            assert "from tornado.web" not in source and "SELECT " not in source, path


# Public interfaces only: a minor release of a library must not break the product.


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names_of_others(tree: ast.AST) -> Iterator[str]:
    """Imported names and attributes with a leading underscore, of anything but ``self`` and ``cls``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"from {node.module} import {alias.name}" for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Attribute) and private(node.attr) and ast.unparse(node.value) not in ("self", "cls"):
            yield ast.unparse(node)


def test_no_private_attribute_of_another_object_is_used() -> None:
    allowed = {"os._exit"}  # documented in the library reference despite its name
    used = {module_name(path): set(private_names_of_others(syntax_tree(path))) - allowed for path in SOURCES}
    assert {module: names for module, names in used.items() if names} == {}


@functools.cache
def private_names_in_source(cls: type) -> set[str]:
    """The private methods of a class, and the private attributes that it sets or reads on ``self`` or ``cls``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # written in C
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return {name for name in names if private(name)}


def classes(module: ModuleType) -> Iterator[type]:
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            yield value


def is_ours(cls: type) -> bool:
    return cls.__module__ in MODULES


def test_no_class_uses_a_private_name_of_a_library_base_class() -> None:
    shared: dict[tuple[str, str], set[str]] = {}
    for cls in itertools.chain.from_iterable(classes(importlib.import_module(module)) for module in sorted(MODULES)):
        for base in cls.__mro__:
            if not is_ours(base) and base is not object and base.__module__ not in ("typing", "builtins", "enum"):
                defined = {name for name in vars(base) if private(name)} | private_names_in_source(base)
                if names := private_names_in_source(cls) & defined:
                    shared[cls.__name__, base.__name__] = names
    assert shared == {}


def test_every_setting_is_documented() -> None:
    documented = (ROOT / "docs/settings.md").read_text()
    options = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Settings)]
    assert [option for option in options if f"`{option}`" not in documented] == []
