"""The files of a folder in memory, with compressed version, entity tag and content type."""

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
"""Content types of the served files by suffix. Not from :mod:`mimetypes`, which depends on the system."""

COMPRESSED_ALREADY = {".png", ".woff2"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file's content.

    :ivar gzipped: the compressed content; None for formats that are compressed already.
    :ivar etag: entity tag without quotes: a hash of the content.
    """

    content_type: str
    body: bytes
    gzipped: bytes | None
    etag: str


class StaticFiles:
    """Finds files with a suffix in :data:`CONTENT_TYPES` below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Return the files' paths relative to the folder, with slashes."""
        return sorted(
            path.relative_to(self._folder).as_posix()
            for path in self._folder.rglob("*")
            if path.suffix in CONTENT_TYPES and path.is_file()
        )

    def find(self, name: str) -> StaticFile | None:
        """Return a file by its path relative to the folder; None if it does not exist.

        A file whose modification time or size has changed is read again.
        """
        parts = name.split("/")
        if Path(name).suffix not in CONTENT_TYPES or "\0" in name or any(part in ("", ".", "..") for part in parts):
            return None
        path = self._folder.joinpath(*parts)
        try:
            status = path.stat()
            return _read(self._folder, path, status.st_mtime_ns, status.st_size)
        except OSError:
            return None


@lru_cache(maxsize=1024)
def _read(folder: Path, path: Path, modified: int, size: int) -> StaticFile:
    """Read a file. Modification time and size are part of the cache's key.

    :raises FileNotFoundError: the file is a link to a file outside of the folder.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FileNotFoundError(path)
    body = path.read_bytes()
    gzipped = None if path.suffix in COMPRESSED_ALREADY else gzip.compress(body, 9, mtime=0)
    return StaticFile(CONTENT_TYPES[path.suffix], body, gzipped, hashlib.sha256(body).hexdigest()[:32])
