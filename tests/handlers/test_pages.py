"""Static files: content types, compression, revalidation, paths outside of the folder; and the layout of static/."""

import gzip
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from handlers.pages import accepts_gzip
from tests.client import Client
from tests.program import ROOT, Program
from web.static_files import StaticFiles

STATIC = ROOT / "static"
NAMES = StaticFiles(STATIC).names()
PAGES = sorted(STATIC.glob("*.html"))

STATIC_IMPORT = re.compile(r"""^\s*(?:import|export)\b[^;"'()]*["'](\.[^"']+)["']""", re.MULTILINE)
"""A static import."""


def raw(client: Client, path: str, encoding: str = "gzip", **headers: str) -> tuple[httpx.Response, bytes]:
    """Return a response and its body as received."""
    with client.http.stream("GET", path, headers={"Accept-Encoding": encoding} | headers) as response:
        return response, b"".join(response.iter_raw())


def test_every_file_is_served_complete_in_either_encoding(client: Client) -> None:
    assert {"index.html", "chat/chat.js", "vendor/marked.js"} <= {*NAMES}
    for name in NAMES:
        plain, body = raw(client, f"/static/{name}", "identity")
        assert plain.status_code == 200 and "Content-Encoding" not in plain.headers
        assert body == (STATIC / name).read_bytes()
        compressed, received = raw(client, f"/static/{name}")
        if compressed.headers.get("Content-Encoding") == "gzip":
            assert gzip.decompress(received) == body
            assert compressed.headers["ETag"] != plain.headers["ETag"]
            assert compressed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
        else:
            assert Path(name).suffix in (".png", ".woff2") and received == body


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/static/chat/chat.js", "text/javascript; charset=utf-8"),
        ("/static/chat/chat.css", "text/css; charset=utf-8"),
        ("/static/favicon.svg", "image/svg+xml; charset=utf-8"),
        ("/static/vendor/vendor.json", "application/json; charset=utf-8"),
        ("/static/vendor/marked.LICENSE", "text/plain; charset=utf-8"),
    ],
)
def test_a_file_has_a_content_type_and_a_security_policy(client: Client, path: str, content_type: str) -> None:
    response = client.http.get(path)
    assert response.headers["Content-Type"] == content_type
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("encoding", ["gzip, deflate, br", "identity"])
def test_a_file_is_revalidated_with_its_etag(client: Client, encoding: str) -> None:
    first, body = raw(client, "/static/chat/chat.js", encoding)
    assert body and first.headers["Cache-Control"] == "no-cache"
    again, no_body = raw(client, "/static/chat/chat.js", encoding, **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, no_body) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    changed, changed_body = raw(client, "/static/chat/chat.js", encoding, **{"If-None-Match": '"another"'})
    assert (changed.status_code, changed_body) == (200, body)


@pytest.mark.parametrize("path", ["/", "/static/chat/chat.css"])
def test_head_returns_the_headers_of_get(client: Client, path: str) -> None:
    with client.http.stream("HEAD", path) as head, client.http.stream("GET", path) as get:
        assert b"".join(head.iter_raw()) == b""
        varying = {"date", "x-request-id"}
        for name in {*get.headers} - varying:
            assert head.headers[name] == get.headers[name]
        assert int(head.headers["Content-Length"]) == len(b"".join(get.iter_raw()))


def test_a_page_supports_only_get_and_head(client: Client) -> None:
    response = client.http.post("/", json={})
    assert response.status_code == 405
    assert {*response.headers["Allow"].split(", ")} == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/../README.md",
        "/static/../static/chat/chat.js",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/vendor/../../pyproject.toml",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/..%5cserver.py",
        "/static/chat/chat.js%00.html",
        "/static/.%2e/tests/package.json",
        "/static/" + "a" * 5000 + ".js",
        "/static/vendor",
        "/static/vendor/",
        "/static/no.js",
        "/static/chat/chat.js/",
        "/../tests/package.json",
    ],
)
def test_only_the_files_of_static_are_served(chatterd: Program, path: str) -> None:
    address = urlsplit(chatterd.url)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: chatterd\r\nConnection: close\r\n\r\n".encode())
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert body.startswith(b'{"error":') and b"/" not in body


def test_links_out_of_the_folder_are_not_followed_and_changed_files_are_read_again(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (pages / "link.txt").symlink_to(tmp_path / "secret.txt")
    (pages / "page.html").write_text("one")
    files = StaticFiles(pages)
    assert files.find("link.txt") is None
    first = files.find("page.html")
    (pages / "page.html").write_text("three")
    changed = files.find("page.html")
    assert first and changed and changed.body == b"three" and changed.etag != first.etag


@pytest.mark.parametrize(
    ("accepted", "accepts"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0.001", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("identity, *;q=0", False),
    ],
)
def test_accept_encoding_is_parsed(accepted: str, accepts: bool) -> None:
    assert accepts_gzip(accepted) is accepts


def test_streams_are_never_compressed(client: Client) -> None:
    with client.prompt("Hello", headers={"Accept-Encoding": "gzip"}) as stream:
        assert "Content-Encoding" not in stream.response.headers
        assert stream.next() is not None


def test_every_vendored_file_is_listed_with_version_and_licence() -> None:
    vendor = STATIC / "vendor"
    packages = httpx.Response(200, content=(vendor / "vendor.json").read_bytes()).json()["packages"]
    listed = {name for package in packages for name in package["files"]}
    present = {path.relative_to(vendor).as_posix() for path in vendor.rglob("*") if path.is_file()}
    assert present == listed | {"vendor.json"}
    for package in packages:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"]) and package["licence"]
        assert any(name.endswith("LICENSE") for name in package["files"])
        texts = [(vendor / name).read_text() for name in package["files"] if name.endswith((".js", "package.json"))]
        assert any(package["version"] in text for text in texts)


# The pages' <head> elements, and the layout of static/.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_has_the_theme_colors(page: Path) -> None:
    light, dark = re.findall(r"--background: (#\w+);", (STATIC / "shared" / "theme.css").read_text())
    for line in (
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="color-scheme" content="light dark">',
        f'<meta name="theme-color" content="{light}" media="(prefers-color-scheme: light)">',
        f'<meta name="theme-color" content="{dark}" media="(prefers-color-scheme: dark)">',
        '<link rel="icon" href="static/favicon.svg" type="image/svg+xml">',
        '<link rel="stylesheet" href="static/shared/theme.css">',
    ):
        assert line in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_preloads_exactly_the_modules_that_it_imports(page: Path) -> None:
    """Without preloading, a browser discovers a module only after it has loaded the module that imports it."""
    preloaded = re.findall(r'<link rel="modulepreload" href="static/(.+?)">', page.read_text())
    [entry] = re.findall(r'<script type="module" src="static/(.+?)"></script>', page.read_text())
    imported: set[Path] = set()
    left = [STATIC / entry]
    while left:
        module = left.pop()
        found = {(module.parent / name).resolve() for name in STATIC_IMPORT.findall(module.read_text())} - imported
        imported |= found
        left += found
    assert preloaded == sorted(one.relative_to(STATIC).as_posix() for one in imported)


MODULES = sorted(path for path in STATIC.rglob("*.js") if "vendor" not in path.relative_to(STATIC).parts)
LAYERS = [
    "vendor",
    "shared",
    *(
        "chat/markdown",
        "chat/markdown/worker",
        "chat/context",
        "chat/composer",
        "chat/reply",
        "chat/messages",
        "chat/sidebar",
        "chat/settings",
        "chat",
    ),
    *("docs", "sign_in", "status"),
]
"""The folders of modules. A module imports from its own folder and from those before it."""


def imports(module: Path) -> list[Path]:
    return [(module.parent / name).resolve() for name in STATIC_IMPORT.findall(module.read_text())]


def layer(module: Path) -> int:
    folder = module.parent.relative_to(STATIC)
    return LAYERS.index("vendor" if folder.parts[0] == "vendor" else folder.as_posix())


def test_imports_run_downwards_without_cycles() -> None:
    for module in MODULES:
        assert all(layer(imported) <= layer(module) for imported in imports(module)), module
    left = set(MODULES)
    while removable := {module for module in left if not left & {*imports(module)}}:
        left -= removable
    assert not left


def test_no_folder_of_the_pages_has_more_than_twelve_files() -> None:
    for folder in (path for path in [STATIC, *STATIC.rglob("*")] if path.is_dir()):
        if "vendor" not in folder.relative_to(STATIC).parts:
            assert sum(path.is_file() for path in folder.iterdir()) <= 12, folder
