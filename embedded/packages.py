"""Whether a Python package is installed completely, asked of its distribution without importing it."""

from importlib import metadata
from pathlib import Path


def is_complete(package: str, folder: str = "") -> bool:
    """Return whether all files of an installed package are there, in their size.

    An installation that was killed leaves some of them, or files without the distribution's metadata. Compiled files
    (``.pyc``) have no size in the metadata and are not checked.

    :param folder: check the files below this path only, such as ``package/data``.
    """
    files = recorded_files(package)
    sizes = [(file, file.size) for file in files if str(file).startswith(folder) and file.size is not None]
    try:
        return bool(sizes) and all(Path(str(file.locate())).stat().st_size == size for file, size in sizes)
    except OSError:
        return False


def recorded_files(package: str) -> list[metadata.PackagePath]:
    """Return the files in an installed package's ``RECORD``; an empty list if it is not installed."""
    try:
        return metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return []


def version(package: str) -> str:
    """Return an installed package's version."""
    return metadata.version(package)
