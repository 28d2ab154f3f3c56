"""The list of installed packages, their licences and versions."""

import re

import pytest

from tests.packages import LIST, Package, packages, table

FREE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT-0", "PSF-2.0", "TCL"}
"""Licences that require attribution only."""


def test_docs_packages_lists_the_installed_packages() -> None:
    assert LIST.read_text() == table(), "run `make audit`"


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.name)
def test_each_package_has_a_permissive_licence_and_a_required_version(package: Package) -> None:
    alternatives = re.split(r" OR ", package.licence)
    assert any(set(re.split(r" AND ", one.strip("()"))) <= FREE for one in alternatives), package.licence
    assert package.fits, f"{package.name} {package.version} is not {package.range}"
