"""Who is let in by the real program: with tokens and cookies, and from which pages; and what its log says."""

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
from tests.client import TIMEOUT, Client
from tests.fakes.issuer import AUDIENCE, ISSUER, Issuer, Signer, key_set
from tests.fakes.ollama import Head, Lines, ScriptedOllama, last_line, line
from tests.handlers.test_openapi import OPERATIONS, check_answer, operation
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
    """A chatterd that wants tokens, and lets pages of one other site in."""
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
def stranger(program: Program, ollama: ScriptedOllama) -> Iterator[httpx.Client]:
    """Somebody without a token."""
    with httpx.Client(base_url=program.url, timeout=TIMEOUT, trust_env=False) as client:
        yield client


@pytest.fixture
def alice(program: Program, tokens: TokenFile, ollama: ScriptedOllama) -> Iterator[Client]:
    client = tokens.client(program.url, "alice")
    with client.http:
        yield client


def sign_in(http: httpx.Client, token: str, **headers: str) -> httpx.Response:
    return http.post("/sign-in", json={"token": token}, headers=headers)


# Routes and what they need.


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
    class Forgotten(BaseHandler):
        pass

    with pytest.raises(TypeError, match=r"Forgotten.* must declare access"):
        check_routes([*ROUTES, Rule(PathMatches("/forgotten"), Forgotten)])


@pytest.mark.parametrize("id", [id for id in OPERATIONS if "401" in operation(id)["responses"] and id != "signIn"])
def test_a_request_without_a_valid_token_is_401_with_a_challenge(stranger: httpx.Client, id: str) -> None:
    path, method = OPERATIONS[id]
    for headers, challenge in [
        ({}, "Bearer"),
        ({"Authorization": "Bearer chatterd_wrong"}, 'Bearer error="invalid_token"'),
        ({"Authorization": "Bearer"}, 'Bearer error="invalid_token"'),
        ({"Authorization": "Basic YTpi"}, "Bearer"),
        ({"Cookie": "chatterd=2|1:0|10:1|8:x|1:y|z"}, "Bearer"),
    ]:
        answer = stranger.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, challenge)
        assert answer.headers.get("Connection") != "close"
        check_answer(id, answer)


def test_every_operation_without_401_works_without_a_token(stranger: httpx.Client) -> None:
    """And none of them tells anything of anybody."""
    for id, (path, method) in OPERATIONS.items():
        if "401" not in operation(id)["responses"]:
            assert operation(id)["security"] == []
            assert stranger.request(method, path).status_code in (200, 204, 404), id
    assert stranger.get("/nowhere").status_code == 404


def test_a_method_that_is_not_implemented_is_401_without_a_token(stranger: httpx.Client) -> None:
    for method in ("PUT", "PATCH", "OPTIONS", "HEAD"):
        assert stranger.request(method, "/llmchat").status_code == 401


def test_a_token_authenticates_and_metrics_require_an_operators_token(
    alice: Client, program: Program, tokens: TokenFile
) -> None:
    assert alice.ask("Hello")
    assert alice.http.get("/sign-in/me").json() == {"name": "alice", "tenant": "alice", "operator": False}
    for id, path in (("watchStatus", "/status/events"), ("getMetrics", "/metrics")):
        refused = alice.http.get(path)
        assert refused.status_code == 403
        check_answer(id, refused)
    olivia = tokens.client(program.url, "olivia")
    with olivia.http, olivia.http.stream("GET", "/status/events") as answer:
        assert answer.status_code == 200
        assert olivia.http.get("/metrics").status_code == 200


def test_the_body_of_an_unauthenticated_request_is_read_unless_it_expects_100_continue(program: Program, stranger: httpx.Client) -> None:
    for _ in range(2):  # on the same connection
        answer = stranger.post("/llmchat", content=b"x" * 5_000_000, headers={"Content-Type": "application/json"})
        assert answer.status_code == 401
    address = urlsplit(program.url)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 10) as waiting:
        waiting.sendall(b"POST /llmchat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert waiting.recv(65_536).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer a", "a"), ("bearer  a ", "a"), ("BEARER a b", "a b"), ("Bearer", ""), ("Basic a", None), ("", None)],
)
def test_only_the_bearer_scheme_is_parsed(header: str, token: str | None) -> None:
    assert parse_bearer(header) == token


# Browsers.


def test_sign_in_exchanges_a_token_for_a_cookie_and_sign_out_deletes_it(
    program: Program, stranger: httpx.Client, tokens: TokenFile
) -> None:
    answer = sign_in(stranger, tokens.token["olivia"])
    check_answer("signIn", answer)
    assert {"name": "olivia", "tenant": "olivia", "operator": True}.items() <= answer.json().items()
    cookie = answer.headers["Set-Cookie"]
    assert re.fullmatch(r"chatterd=[^; ]+; Expires=[^;]+ GMT; Path=/; HttpOnly; SameSite=Strict", cookie)
    assert tokens.token["olivia"] not in cookie
    assert stranger.get("/models").status_code == 200
    with stranger.stream("GET", "/status/events") as events:
        assert events.status_code == 200
    wrong = stranger.get("/models", headers={"Authorization": "Bearer x"})
    assert wrong.status_code == 401, "a token counts before a cookie"
    kept = stranger.cookies["chatterd"]
    assert stranger.delete("/sign-in").status_code == 204
    assert "chatterd" not in stranger.cookies
    assert stranger.get("/models").status_code == 401
    forged = kept[:-1] + ("1" if kept.endswith("0") else "0")
    assert httpx.get(f"{program.url}/models", headers={"Cookie": f"chatterd={forged}"}).status_code == 401


def test_the_cookie_is_secure_if_the_browser_uses_https(stranger: httpx.Client, tokens: TokenFile) -> None:
    answer = sign_in(stranger, tokens.token["alice"], Host="chat.example", Origin="https://chat.example")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-chatterd=") and cookie.endswith("; Path=/; HttpOnly; SameSite=Strict; Secure")
    value = cookie.split(";")[0]
    assert stranger.get("/models", headers={"Cookie": f"chatterd=old; {value}"}).status_code == 200


def test_over_https_only_the_host_cookie_is_accepted(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path
) -> None:
    """Who owns a neighbouring host may give a browser their own session, to read what is said in it."""
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
    with httpx.Client(base_url=program.url, timeout=TIMEOUT, trust_env=False) as http:

        def status(cookie: str, headers: dict[str, str]) -> int:
            return http.get("/sign-in/me", headers=headers | {"Cookie": cookie}).status_code

        plain = sign_in(http, tokens.token["mallory"]).headers["Set-Cookie"].split(";")[0]
        http.cookies.clear()
        assert plain.startswith("chatterd=") and (status(plain, {}), status(plain, over_tls)) == (200, 401)
        for origin in ({}, {"Origin": "http://app.example"}):
            cookie = sign_in(http, tokens.token["mallory"], **over_tls, **origin).headers["Set-Cookie"]
            http.cookies.clear()
            assert cookie.startswith("__Host-chatterd=") and cookie.endswith("; Secure")
            assert status(f"{plain}; {cookie.split(';')[0]}", over_tls) == 200


def test_an_invalid_token_does_not_sign_in(stranger: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    for token in ("chatterd_wrong", "\0", "\udcff", "x" * 100_000):
        answer = stranger.post("/sign-in", content=json.dumps({"token": token}), headers=headers)
        assert answer.status_code in (400, 401), answer.text
        assert "Set-Cookie" not in answer.headers
    for body in ("{}", "[]", '{"token":""}', '{"token":" "}', '{"token":7}', "null"):
        assert stranger.post("/sign-in", content=body, headers=headers).status_code == 422


# Pages of other sites.


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


def test_only_an_allowed_origin_may_send_requests_and_read_responses(alice: Client, stranger: httpx.Client) -> None:
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,prefer"}
    answer = stranger.options("/llmchat", headers=asking | {"Origin": "https://app.example"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (204, "https://app.example")
    assert {"GET", "POST", "DELETE"} <= {*answer.headers["Access-Control-Allow-Methods"].split(", ")}
    allowed = {*answer.headers["Access-Control-Allow-Headers"].split(", ")}
    assert {"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer"} <= allowed
    read = alice.http.get("/models", headers={"Origin": "https://app.example"})
    exposed = {*read.headers["Access-Control-Expose-Headers"].split(", ")}
    assert {"Location", "Content-Location", "Retry-After", "X-Request-ID"} <= exposed
    refused = stranger.get("/models", headers={"Origin": "https://app.example"})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://app.example")
    for origin in ({}, {"Origin": "https://evil.example"}):
        for other in (stranger.options("/llmchat", headers=asking | origin), alice.http.get("/models", headers=origin)):
            assert other.status_code in (401, 200)
            assert not any(name.startswith("access-control") for name in other.headers)
            assert "Origin" in other.headers["Vary"]
    for answer in (read, refused):
        assert "Access-Control-Allow-Credentials" not in answer.headers


def test_without_named_origins_there_is_no_cors(client: Client) -> None:
    answer = client.http.options(
        "/llmchat", headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    )
    assert answer.status_code == 405
    read = client.http.get("/models", headers={"Origin": "https://app.example"})
    assert read.status_code == 200
    for name in [*answer.headers, *read.headers]:
        assert not name.startswith("access-control") and name != "vary"


# Tokens that come and go.


@pytest.mark.expects_log("The tokens stay as they were")
def test_sighup_reloads_the_tokens_and_ends_the_sessions_of_removed_ones(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path
) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    tokens.add("alice")
    program = start_chatterd(database_url=database_url, auth="token", token_file=tokens.path, data_dir=tmp_path)

    def hang_up(said: str) -> None:
        program.process.send_signal(signal.SIGHUP)
        program.wait_log(said)

    with httpx.Client(base_url=program.url, timeout=TIMEOUT, trust_env=False) as browser:
        assert sign_in(browser, tokens.token["alice"]).status_code == 200
        assert sign_in(browser, tokens.add("bob")).status_code == 401
        hang_up("Read 2 tokens")
        assert httpx.get(f"{program.url}/models", headers={"Authorization": f"Bearer {tokens.token['bob']}"}).is_success
        good = tokens.path.read_text()
        tokens.path.write_text(good + "{")
        hang_up("The tokens stay as they were: .*tokens, line 3")
        assert browser.get("/models").status_code == 200
        tokens.path.write_text(good)
        tokens.remove("alice")
        hang_up("Read 1 tokens")
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
            answer = sign_in(http, token)
            assert answer.json()["name"] == "Olivia" and token not in answer.headers["Set-Cookie"]
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
            answer = client.http.get("/models")
            with raw(program.url) as slow:  # clients are still looked after
                slow.send(b"GET /healthz")
                assert slow.rest() == b""
            assert answer.status_code == 200


# Starting.


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
    made = run("alice", f"--token-file={path}", "--tenant=family", program=("-m", "auth.create_token"))
    assert made.returncode == 0
    token = made.stdout.strip()
    assert token not in made.stderr and token not in path.read_text() and digest(token) in path.read_text()
    again = run("alice", f"--token-file={path}", program=("-m", "auth.create_token"))
    assert again.returncode != 0 and "already" in again.stderr
    program = start_chatterd(database_url=database_url, auth="token", token_file=path, data_dir=tmp_path)
    answer = httpx.get(f"{program.url}/sign-in/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.json() == {"name": "alice", "tenant": "family", "operator": False}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--address=0.0.0.0"], "without --auth anybody"),
        (["--auth=token"], "--auth=token needs --token-file"),
        (["--auth=token", "--token-file={wrong}"], r"wrong, line 1: "),
        (["--auth=token", "--token-file=/no/such"], "cannot be read"),
        (["--auth=token", "--token-file={good}", "--cookie-secret=short"], "--cookie-secret is too short"),
        (["--auth=jwt", "--jwt-issuer=i", "--jwt-audience=a", "--jwt-keys=http://a.example"], "--jwt-keys must be"),
        (["--cors-origins=*"], "--cors-origins names origins"),
    ],
)
def test_inconsistent_settings_are_an_error_at_startup(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "wrong").write_text("{")
    (tmp_path / "good").touch()
    paths = {"wrong": str(tmp_path / "wrong"), "good": str(tmp_path / "good")}
    given = [one.format(**paths) for one in arguments]
    ended = run("--port=0", f"--data-dir={tmp_path}", "--database-url=postgresql://127.0.0.1:1/x", *given)
    assert ended.returncode == 1
    assert re.search(sentence, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr and "short\n" not in ended.stderr


# The log.


def test_the_log_contains_no_secrets_and_no_content(
    start_chatterd: Callable[..., Program], database_url: str, tmp_path: Path, ollama: ScriptedOllama
) -> None:
    tokens = TokenFile(tmp_path / "tokens")
    token = tokens.add("alice")
    secret = "a secret of cookies that nobody guesses"
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
        assert http.get("/models").status_code == 200  # by the cookie
        http.get("/models", headers={"Authorization": "Bearer their-wrong-token"})
        http.get("/models", headers={"Authorization": "Basic their-password"})
        http.get("/models", headers={"Cookie": f"chatterd={cookie[:-2]}"})
        http.get("/models", headers={"Cookie": "chatterd=1|their-cookie|2"})
        http.get("/models", headers={"Cookie": "chatterd=their-cookie|123|abc"})  # as Tornado once signed them
    address = urlsplit(program.url)
    for broken in (b"GET /\xff HTTP/1.1\r\nAuthorization: Bearer %s\r\n\r\n", b"Authorization: Bearer %s\r\n\r\n"):
        with socket.create_connection((str(address.hostname), int(address.port or 0)), 10) as raw:
            raw.sendall(broken % token.encode())
            raw.settimeout(10)
            raw.recv(65_536)
    program.terminate()
    assert "path=/sign-in" in program.log
    for known in (token, token[-20:], digest(token), secret, cookie, cookie.split("|")[-1], "their-"):
        assert known not in program.log, known
    program.alarms([r".*"])
