"""The files of a folder, kept in memory: compressed once, tagged for revalidation, with their content types."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".LICENSE": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
"""What is served, by suffix. A fixed list: the system's own differs from machine to machine."""

COMPRESSED_ALREADY = {".png", ".woff2"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file's bytes, as they are and compressed; ``etag`` without quotes changes with them."""

    content_type: str
    body: bytes
    gzipped: bytes | None
    etag: str


class StaticFiles:
    """Finds the files below ``folder`` by their names. Only what is there and has a known suffix exists."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in self.names():
            self.find(name)

    def names(self) -> list[str]:
        """Paths relative to the folder, as they stand in an address."""
        return sorted(
            path.relative_to(self._folder).as_posix()
            for path in self._folder.rglob("*")
            if path.suffix in CONTENT_TYPES and path.is_file()
        )

    def find(self, name: str) -> StaticFile | None:
        """The file of that name as it is now; None if there is none.

        A changed file is read again: its time and size tell, at the cost of a look at the disk.
        """
        parts = name.split("/")
        if Path(name).suffix not in CONTENT_TYPES or "\0" in name or any(part in ("", ".", "..") for part in parts):
            return None
        path = self._folder.joinpath(*parts)
        try:
            known = path.stat()
            return _read(self._folder, path, known.st_mtime_ns, known.st_size)
        except OSError:
            return None


@lru_cache(maxsize=1024)
def _read(folder: Path, path: Path, modified: int, size: int) -> StaticFile:
    """Read a file, and again when it was ``modified`` or its ``size`` is another.

    :raises FileNotFoundError: a link leads out of the folder.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FileNotFoundError(path)
    body = path.read_bytes()
    gzipped = None if path.suffix in COMPRESSED_ALREADY else gzip.compress(body, 9, mtime=0)
    return StaticFile(CONTENT_TYPES[path.suffix], body, gzipped, hashlib.sha256(body).hexdigest()[:32])
