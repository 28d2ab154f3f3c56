"""Authentication of the whole program: tokens, cookies, origins, its settings, and secrets in its log."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from auth.token_file import digest
from handlers import ROUTES
from tests.client import NO_TLS, TIMEOUT, Client
from tests.fakes.issuer import AUDIENCE, ISSUER, Issuer, Signer, key_set
from tests.fakes.ollama import Head, Lines, ScriptedOllama, last_line, line
from tests.handlers.test_openapi import OPERATIONS, check_response, operation
from tests.program import ROOT, Program
from tests.raw import raw
from tests.tokens import TokenFile
from web.authentication import check_routes, parse_bearer
from web.base import BaseHandler

SIGNER = Signer("one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(scope="module")
def tokens(folder: Path) -> TokenFile:
    tokens = TokenFile(folder / "tokens")
    tokens.add("alice")
    tokens.add("olivia", operator=True)
    return tokens


@pytest.fixture(scope="module")
def program(
    tokens: TokenFile, folder: Path, new_database: Callable[[], str], _session_ollama: ScriptedOllama
) -> Iterator[Program]:
    """A server with --auth=token and one allowed origin."""
    with Program(
        database_url=new_database(),
        ollama_host=_session_ollama.url,
        embedded_model=False,
        drain_timeout=1,
        auth="token",
        token_file=tokens.path,
        data_dir=folder / "data",
        cors_origins="https://app.example",
    ) as program:
        yield program
        assert not program.alarms([])


@pytest.fixture
def anonymous(program: Program, ollama: ScriptedOllama) -> Iterator[httpx.Client]:
    """A client without a token."""
    with httpx.Client(base_url=program.url, timeout=TIMEOUT, trust_env=False, verify=NO_TLS) as client:
        yield client


@pytest.fixture
def alice(program: Program, tokens: TokenFile, ollama: ScriptedOllama) -> Iterator[Client]:
    client = tokens.client(program.url, "alice")
    with client.http:
        yield client


def sign_in(http: httpx.Client, token: str, **headers: str) -> httpx.Response:
    return http.post("/sign-in", json={"token": token}, headers=headers)


# Access levels of routes.


def test_every_route_declares_its_access() -> None:
    patterns: dict[Access, set[str]] = {access: set() for access in Access}
    for rule in ROUTES:
        assert isinstance(rule.matcher, PathMatches)
        patterns[rule.target.access].add(rule.matcher.regex.pattern)
    assert {pattern.strip("/?$") for pattern in patterns[Access.OPERATOR]} == {"status/events", "metrics"}
    assert {pattern.strip("/?$") for pattern in patterns[Access.AUTHENTICATED]} >= {
        "llmchat",
        "llmchat/([^/]+)",
        "llmprompt",
        "models",
    }
    for pattern in patterns[Access.PUBLIC]:
        assert not re.match(r"/(llm|models|status/events|metrics)", pattern)


def test_a_route_without_declared_access_is_an_error() -> None:
    class WithoutAccess(BaseHandler):
        pass

    with pytest.raises(TypeError, match=r"WithoutAccess.* must declare access"):
        check_routes([*ROUTES, Rule(PathMatches("/path"), WithoutAccess)])


@pytest.mark.parametrize("id", [id for id in OPERATIONS if "401" in operation(id)["responses"] and id != "signIn"])
def test_a_request_without_a_valid_token_is_401_with_a_challenge(anonymous: httpx.Client, id: str) -> None:
    path, method = OPERATIONS[id]
    for headers, challenge in [
        ({}, "Bearer"),
        ({"Authorization": "Bearer chatterd_wrong"}, 'Bearer error="invalid_token"'),
        ({"Authorization": "Bearer"}, 'Bearer error="invalid_token"'),
        ({"Authorization": "Basic YTpi"}, "Bearer"),
        ({"Cookie": "chatterd=2|1:0|10:1|8:x|1:y|z"}, "Bearer"),
    ]:
        response = anonymous.request(method, path, headers=headers)
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, challenge)
        assert response.headers.get("Connection") != "close"
        check_response(id, response)


def test_every_operation_without_401_works_without_a_token(anonymous: httpx.Client) -> None:
    for id, (path, method) in OPERATIONS.items():
        if "401" not in operation(id)["responses"]:
            assert operation(id)["security"] == []
            assert anonymous.request(method, path).status_code in (200, 204, 404), id
    assert anonymous.get("/nowhere").status_code == 404


def test_a_method_that_is_not_implemented_is_401_without_a_token(anonymous: httpx.Client) -> None:
    for method in ("PUT", "PATCH", "OPTIONS", "HEAD"):
        assert anonymous.request(method, "/llmchat").status_code == 401


def test_a_token_authenticates_and_metrics_require_an_operators_token(
    alice: Client, program: Program, tokens: TokenFile
) -> None:
    assert alice.ask("Hello")
    assert alice.http.get("/sign-in/me").json() == {"name": "alice", "tenant": "alice", "operator": False}
    for id, path in (("watchStatus", "/status/events"), ("getMetrics", "/metrics")):
        rejected = alice.http.get(path)
        assert rejected.status_code == 403
        check_response(id, rejected)
    olivia = tokens.client(program.url, "olivia")
    with olivia.http, olivia.http.stream("GET", "/status/events") as response:
        assert response.status_code == 200
        assert olivia.http.get("/metrics").status_code == 200


def test_the_body_of_an_unauthenticated_request_is_read_unless_it_expects_100_continue(
    program: Program, anonymous: httpx.Client
) -> None:
    for _ in range(2):  # on the same connection
        response = anonymous.post("/llmchat", content=b"x" * 5_000_000, headers={"Content-Type": "application/json"})
        assert response.status_code == 401
    address = urlsplit(program.url)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 10) as expecting:
        expecting.sendall(b"POST /llmchat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert expecting.recv(65_536).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer a", "a"), ("bearer  a ", "a"), ("BEARER a b", "a b"), ("Bearer", ""), ("Basic a", None), ("", None)],
)
def test_only_the_bearer_scheme_is_parsed(header: str, token: str | None) -> None:
    assert parse_bearer(header) == token


# Session cookies.


def test_sign_in_exchanges_a_token_for_a_cookie_and_sign_out_deletes_it(
    program: Program, anonymous: httpx.Client, tokens: TokenFile
) -> None:
    response = sign_in(anonymous, tokens.token["olivia"])
    check_response("signIn", response)
    assert {"name": "olivia", "tenant": "olivia", "operator": True}.items() <= response.json().items()
    cookie = response.headers["Set-Cookie"]
    assert re.fullmatch(r"chatterd=[^; ]+; Expires=[^;]+ GMT; Path=/; HttpOnly; SameSite=Strict", cookie)
    assert tokens.token["olivia"] not in cookie
    assert anonymous.get("/models").status_code == 200
    with anonymous.stream("GET", "/status/events") as events:
        assert events.status_code == 200
    wrong = anonymous.get("/models", headers={"Authorization": "Bearer x"})
    assert wrong.status_code == 401, "a token takes precedence over a cookie"
    cookie_value = anonymous.cookies["chatterd"]
    assert anonymous.delete("/sign-in").status_code == 204
    assert "chatterd" not in anonymous.cookies
    assert anonymous.get("/models").status_code == 401
    forged = cookie_value[:-1] + ("1" if cookie_value.endswith("0") else "0")
    assert (
        httpx.get(f"{program.url}/models", headers={"Cookie": f"chatterd={forged}"}, verify=NO_TLS).status_code == 401
    )


def test_the_cookie_is_secure_if_the_browser_uses_https(anonymous: httpx.Client, tokens: TokenFile) -> None:
    response = sign_in(anonymous, tokens.token["alice"], Host="chat.example", Origin="https://chat.example")
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("__Host-chatterd=") and cookie.endswith("; Path=/; HttpOnly; SameSite=Strict; Secure")
    value = cookie.split(";")[0]
    assert anonymous.get("/models", headers={"Cookie": f"chatterd=old; {value}"}).status_code == 200


def test_over_https_only_the_host_cookie_is_accepted(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path
) -> None:
    """A neighbouring host could set its own session in a browser, to read the conversations held in it."""
    tokens = TokenFile(tmp_path / "tokens")
    tokens.add("mallory")
    program = start_chatterd(
        database_url=database_url,
        auth="token",
        token_file=tokens.path,
        data_dir=tmp_path,
        trusted_proxies="127.0.0.1",
        cors_origins="http://app.example",
    )
    over_tls = {"X-Forwarded-Proto": "https"}
    with httpx.Client(base_url=program.url, timeout=TIMEOUT, trust_env=False, verify=NO_TLS) as http:

        def status(cookie: str, headers: dict[str, str]) -> int:
            return http.get("/sign-in/me", headers=headers | {"Cookie": cookie}).status_code

        insecure_cookie = sign_in(http, tokens.token["mallory"]).headers["Set-Cookie"].split(";")[0]
        http.cookies.clear()
        assert insecure_cookie.startswith("chatterd=") and (
            status(insecure_cookie, {}),
            status(insecure_cookie, over_tls),
        ) == (200, 401)
        for origin in ({}, {"Origin": "http://app.example"}):
            cookie = sign_in(http, tokens.token["mallory"], **over_tls, **origin).headers["Set-Cookie"]
            http.cookies.clear()
            assert cookie.startswith("__Host-chatterd=") and cookie.endswith("; Secure")
            assert status(f"{insecure_cookie}; {cookie.split(';')[0]}", over_tls) == 200


def test_an_invalid_token_does_not_sign_in(anonymous: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    for token in ("chatterd_wrong", "\0", "\udcff", "x" * 20_000):
        response = anonymous.post("/sign-in", content=json.dumps({"token": token}), headers=headers)
        assert response.status_code in (400, 401, 422), response.text
        assert "Set-Cookie" not in response.headers
    for body in ("{}", '{"token":""}', '{"token":" "}', '{"token":7}', '{"token":null}', '{"token":"x","a":1e400}'):
        assert anonymous.post("/sign-in", content=body, headers=headers).status_code == 422
    for body in ("[]", "null", '{"token":', '{"a":' * 200 + "1" + "}" * 200):
        assert anonymous.post("/sign-in", content=body, headers=headers).status_code == 400


# Cross-origin requests.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 204),
        ({"Origin": "{own}"}, 204),
        ({"Origin": "https://app.example"}, 204),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 204),
    ],
)
def test_unsafe_requests_of_other_origins_are_403(
    alice: Client, program: Program, headers: dict[str, str], status: int
) -> None:
    headers = {name: value.format(own=program.url) for name, value in headers.items()}
    assert alice.http.delete("/llmchat", params={"appID": alice.appid}, headers=headers).status_code == status
    posted = alice.http.post("/llmprompt", json={"model": "fake", "prompt": "x"}, headers=headers)
    assert posted.status_code == (200 if status == 204 else 403)
    assert alice.http.get("/models", headers=headers).status_code == 200


def test_only_an_allowed_origin_may_send_requests_and_read_responses(alice: Client, anonymous: httpx.Client) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,prefer"}
    response = anonymous.options("/llmchat", headers=preflight | {"Origin": "https://app.example"})
    assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (204, "https://app.example")
    assert {"GET", "POST", "DELETE"} <= {*response.headers["Access-Control-Allow-Methods"].split(", ")}
    allowed = {*response.headers["Access-Control-Allow-Headers"].split(", ")}
    assert {"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer"} <= allowed
    read = alice.http.get("/models", headers={"Origin": "https://app.example"})
    exposed = {*read.headers["Access-Control-Expose-Headers"].split(", ")}
    assert {"Location", "Content-Location", "Retry-After", "X-Request-ID"} <= exposed
    rejected = anonymous.get("/models", headers={"Origin": "https://app.example"})
    assert (rejected.status_code, rejected.headers["Access-Control-Allow-Origin"]) == (401, "https://app.example")
    for origin in ({}, {"Origin": "https://evil.example"}):
        for other in (
            anonymous.options("/llmchat", headers=preflight | origin),
            alice.http.get("/models", headers=origin),
        ):
            assert other.status_code in (401, 200)
            assert not any(name.startswith("access-control") for name in other.headers)
            assert "Origin" in other.headers["Vary"]
    for response in (read, rejected):
        assert "Access-Control-Allow-Credentials" not in response.headers


# Reloading tokens, and JSON web tokens.


@pytest.mark.expects_log("The tokens were not reloaded")
def test_sighup_reloads_the_tokens_and_ends_the_sessions_of_removed_ones(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path
) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    tokens.add("alice")
    program = start_chatterd(database_url=database_url, auth="token", token_file=tokens.path, data_dir=tmp_path)

    def reload(message: str) -> None:
        program.process.send_signal(signal.SIGHUP)
        program.wait_log(message)

    with httpx.Client(base_url=program.url, timeout=TIMEOUT, trust_env=False, verify=NO_TLS) as browser:
        assert sign_in(browser, tokens.token["alice"]).status_code == 200
        assert sign_in(browser, tokens.add("bob")).status_code == 401
        reload("Loaded 2 tokens")
        assert httpx.get(
            f"{program.url}/models", headers={"Authorization": f"Bearer {tokens.token['bob']}"}, verify=NO_TLS
        ).is_success
        content = tokens.path.read_text()
        tokens.path.write_text(content + "{")
        reload("The tokens were not reloaded; .*tokens, line 3")
        assert browser.get("/models").status_code == 200
        tokens.path.write_text(content)
        tokens.remove("alice")
        reload("Loaded 1 tokens")
        assert browser.get("/models").status_code == 401
        assert sign_in(browser, tokens.token["alice"]).status_code == 401


def test_json_web_tokens_authenticate_and_their_keys_may_rotate(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path
) -> None:
    new = Signer("two", "RSA")
    with Issuer(SIGNER) as issuer:
        program = start_chatterd(
            database_url=database_url,
            auth="jwt",
            jwt_issuer=ISSUER,
            jwt_audience=AUDIENCE,
            jwt_keys=issuer.url,
            jwt_operator_claim="roles=admin",
            data_dir=tmp_path,
        )
        client = Client(program.url)
        with client.http as http:
            assert http.get("/models").status_code == 401
            http.headers["Authorization"] = f"Bearer {SIGNER.sign()}"
            assert client.ask("Hello")
            assert http.get("/status/events").status_code == 403
            issuer.body = key_set(SIGNER, new)
            http.headers["Authorization"] = f"Bearer {new.sign(roles=['admin'], sub='olivia', name='Olivia')}"
            assert http.get("/models").status_code == 200
            with http.stream("GET", "/status/events") as events:
                assert events.status_code == 200
            token = str(http.headers.pop("Authorization")).split()[1]
            response = sign_in(http, token)
            assert response.json()["name"] == "Olivia" and token not in response.headers["Set-Cookie"]
            assert http.get("/sign-in/me").json()["tenant"] == "olivia"
            assert token not in program.log and token.split(".")[2] not in program.log


def test_a_slow_fetch_of_keys_does_not_count_towards_the_idle_timeout(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path
) -> None:
    with Issuer(SIGNER) as issuer:
        program = start_chatterd(
            database_url=database_url,
            auth="jwt",
            jwt_issuer=ISSUER,
            jwt_audience=AUDIENCE,
            jwt_keys=issuer.url,
            data_dir=tmp_path,
            idle_connection_timeout=0.2,
        )
        issuer.body, issuer.delay = key_set(SIGNER, new := Signer("two")), 1.0
        with Client(program.url) as client:
            client.http.headers["Authorization"] = f"Bearer {new.sign()}"
            response = client.http.get("/models")
            with raw(program.url) as slow:  # the idle timeout still applies
                slow.send(b"GET /healthz")
                assert slow.rest() == b""
            assert response.status_code == 200


# The command line.


def run(
    *arguments: str, program: Sequence[str] = ("server.py",), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_create_token_prints_a_token_and_stores_only_its_hash(
    tmp_path: Path, start_chatterd: Callable[..., Program], database_url: str
) -> None:
    path = tmp_path / "tokens"
    created = run("alice", f"--token-file={path}", "--tenant=family", program=("-m", "auth.create_token"))
    assert created.returncode == 0
    token = created.stdout.strip()
    assert token not in created.stderr and token not in path.read_text() and digest(token) in path.read_text()
    again = run("alice", f"--token-file={path}", program=("-m", "auth.create_token"))
    assert again.returncode != 0 and "already" in again.stderr
    program = start_chatterd(database_url=database_url, auth="token", token_file=path, data_dir=tmp_path)
    response = httpx.get(f"{program.url}/sign-in/me", headers={"Authorization": f"Bearer {token}"}, verify=NO_TLS)
    assert response.json() == {"name": "alice", "tenant": "family", "operator": False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address=0.0.0.0"], "with --auth=none, every client"),
        pytest.param(["--auth=token"], "--auth=token requires --token-file", marks=pytest.mark.extended),
        (["--auth=token", "--token-file={invalid}"], r"invalid, line 1: "),
        pytest.param(["--auth=token", "--token-file=/no/such"], "cannot be read", marks=pytest.mark.extended),
        pytest.param(
            ["--auth=token", "--token-file={empty}", "--cookie-secret=short"],
            "--cookie-secret is too short",
            marks=pytest.mark.extended,
        ),
        pytest.param(
            ["--auth=jwt", "--jwt-issuer=i", "--jwt-audience=a", "--jwt-keys=http://a.example"],
            "--jwt-keys must be",
            marks=pytest.mark.extended,
        ),
        (["--cors-origins=*"], "--cors-origins must be"),
    ],
)
def test_inconsistent_settings_are_an_error_at_startup(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "invalid").write_text("{")
    (tmp_path / "empty").touch()
    paths = {"invalid": str(tmp_path / "invalid"), "empty": str(tmp_path / "empty")}
    formatted = [one.format(**paths) for one in arguments]
    result = run("--port=0", f"--data-dir={tmp_path}", "--database-url=postgresql://127.0.0.1:1/x", *formatted)
    assert result.returncode == 1
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr and "short\n" not in result.stderr


# The log.


def test_the_log_contains_no_secrets_and_no_content(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path, ollama: ScriptedOllama
) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    token = tokens.add("alice")
    secret = "a long and random secret for cookies"
    program = start_chatterd(
        database_url=database_url,
        auth="token",
        token_file=tokens.path,
        data_dir=tmp_path,
        cookie_secret=secret,
        logging="debug",
    )
    ollama.script(Head(), Lines(line("their-words"), last_line()))
    alice = tokens.client(program.url, "alice", "their-appid")
    with alice.http as http:
        alice.ask("their-prompt", headers={"Idempotency-Key": "their-key"})
        alice.history()
        http.get("/status/events")
        http.post("/llmchat", content="their-broken-body", headers={"Content-Type": "application/json"})
        cookie = sign_in(http, token).cookies["chatterd"]
        assert sign_in(http, "their-wrong-token").status_code == 401
        assert sign_in(http, token, Origin="https://their-site.example").status_code == 403
        del http.headers["Authorization"]
        assert http.get("/models").status_code == 200  # authenticated by the cookie
        http.get("/models", headers={"Authorization": "Bearer their-wrong-token"})
        http.get("/models", headers={"Authorization": "Basic their-password"})
        http.get("/models", headers={"Cookie": f"chatterd={cookie[:-2]}"})
        http.get("/models", headers={"Cookie": "chatterd=1|their-cookie|2"})
        http.get("/models", headers={"Cookie": "chatterd=their-cookie|123|abc"})  # Tornado's old signed values
    address = urlsplit(program.url)
    for broken in (b"GET /\xff HTTP/1.1\r\nAuthorization: Bearer %s\r\n\r\n", b"Authorization: Bearer %s\r\n\r\n"):
        with socket.create_connection((str(address.hostname), int(address.port or 0)), 10) as raw:
            raw.sendall(broken % token.encode())
            raw.settimeout(10)
            raw.recv(65_536)
    program.terminate()
    assert "path=/sign-in" in program.log
    for sensitive in (token, token[-20:], digest(token), secret, cookie, cookie.split("|")[-1], "their-"):
        assert sensitive not in program.log, sensitive
    program.alarms([r".*"])
