"""What the product installs is listed, free to use, and fits together."""

import re

import pytest

from tests.packages import LIST, Package, packages, table

FREE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT-0", "PSF-2.0", "TCL"}
"""Licences that ask for no more than to be named."""


def test_the_list_is_as_what_is_installed() -> None:
    assert LIST.read_text() == table(), "run `make audit`"


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.name)
def test_a_package_is_free_to_use_and_in_its_range(package: Package) -> None:
    alternatives = re.split(r" OR ", package.licence)
    assert any(set(re.split(r" AND ", one.strip("()"))) <= FREE for one in alternatives), package.licence
    assert package.fits, f"{package.name} {package.version} is not {package.range}"
