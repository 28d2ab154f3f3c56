"""JSON Web Tokens: which are accepted, which are rejected, and how keys are fetched and replaced."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from tornado.options import Error

from auth import jwks, jwt_authenticator
from auth.jwks import JWKSClient, parse
from auth.jwt_authenticator import JWTAuthenticator
from auth.principal import Principal
from errors import ServiceUnavailable, Unauthorized
from settings import Settings
from tests.fakes.issuer import AUDIENCE, ISSUER, Issuer, Signer
from tests.fakes.issuer import key_set as document

Result = TypeVar("Result")
SETTINGS = Settings(auth="jwt", jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
EC = Signer("ec")
RSA = Signer("rsa", "RSA")
OKP = Signer("okp", "OKP")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(document(EC, RSA, OKP))
    return path


def run(
    source: str | Path, act: Callable[[JWTAuthenticator, JWKSClient], Awaitable[Result]], settings: Settings = SETTINGS
) -> Result:
    """Call a coroutine function with an authenticator that uses the keys of ``source``."""

    async def run() -> Result:
        keys = JWKSClient(str(source))
        await keys.open()
        try:
            return await act(JWTAuthenticator(settings, keys), keys)
        finally:
            keys.close()

    return asyncio.run(run())


def check(source: str | Path, token: str, settings: Settings = SETTINGS) -> Principal:
    return run(source, lambda authenticator, _: authenticator.verify(token), settings)


@pytest.mark.parametrize("signer", [EC, RSA, OKP], ids=lambda signer: signer.algorithm)
def test_a_token_names_its_principal(path: Path, signer: Signer) -> None:
    assert check(path, signer.sign()) == Principal("alice", name="alice")
    assert check(path, signer.sign(name="Alice A.", aud=["other", AUDIENCE])).name == "Alice A."


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "\ud800", 7])
def test_a_name_with_invalid_characters_is_replaced_by_the_tenant(path: Path, name: object) -> None:
    assert check(path, EC.sign(name=name)).name == "alice"


def test_an_rsa_key_verifies_any_rsa_algorithm_unless_it_names_one(path: Path) -> None:
    assert check(path, RSA.sign("PS512"))
    path.write_text(json.dumps({"keys": [RSA.public | {"alg": "RS256"}]}))
    assert check(path, RSA.sign("RS256"))
    with pytest.raises(Unauthorized):
        check(path, RSA.sign("PS512"))


@pytest.mark.parametrize(
    ("claim", "claims", "operator"),
    [
        ("", {"operator": True}, False),
        ("operator", {"operator": True}, True),
        ("operator", {"operator": "true"}, False),
        ("operator", {"operator": 1}, False),
        ("operator", {}, False),
        ("roles=admin", {"roles": ["user", "admin"]}, True),
        ("roles=admin", {"roles": "admin"}, True),
        ("roles=admin", {"roles": "administrator"}, False),
        ("roles=admin", {"roles": ["administrator"]}, False),
        ("roles=admin", {"roles": {"admin": 1}}, False),
        ("roles=admin", {"roles": None}, False),
    ],
)
def test_the_operator_claim_marks_operators(path: Path, claim: str, claims: dict[str, Any], operator: bool) -> None:
    settings = Settings(**{**vars(SETTINGS), "jwt_operator_claim": claim})
    assert check(path, EC.sign(**claims), settings).operator is operator


def test_the_tenant_is_the_configured_claim(path: Path) -> None:
    settings = Settings(**{**vars(SETTINGS), "jwt_tenant_claim": "org"})
    assert check(path, EC.sign(org="acme"), settings).tenant == "acme"
    for wrong in (None, "", 7, ["acme"], "a\0b", "x" * 201):
        with pytest.raises(Unauthorized, match="org"):
            check(path, EC.sign(org=wrong), settings)


def shared_secret_confusion() -> str:
    """Sign a token with the public key as if it were a shared secret (CVE-2015-9235)."""
    secret = RSA.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = EC.sign().split(".")[1]
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "rsa"}).encode()).rstrip(b"=").decode()
    algorithm: Any = jwt.get_algorithm_by_name("HS256")
    signature = base64.urlsafe_b64encode(algorithm.sign(f"{head}.{body}".encode(), secret)).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


def with_header(kid: bytes) -> str:
    """A token that names its key by another value than a text."""
    header = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":' + kid + b"}").rstrip(b"=").decode()
    return ".".join([header, *EC.sign().split(".")[1:]])


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        "x" * 20_000,
        base64.urlsafe_b64encode(b"[" * 9_000).decode() + ".e30.e30",
        EC.sign()[:-4],
        EC.sign() + "AAAA",
        EC.sign(exp=int(time.time()) - 60),
        EC.sign(exp=None),
        EC.sign(nbf=int(time.time()) + 600),
        EC.sign(iss="https://other.example"),
        EC.sign(iss=None),
        EC.sign(aud="other"),
        EC.sign(aud=None),
        EC.sign(sub=None),
        EC.sign(sub="\ud800"),
        EC.sign(headers={"kid": "rsa"}),
        EC.sign(headers={"kid": "unknown"}),
        Signer("ec").sign(),
        EC.sign(headers={"crit": ["x"], "x": 1}),
        jwt.encode({"sub": "alice"}, None, "none", headers={"kid": "ec"}),  # type: ignore[arg-type]
        shared_secret_confusion(),
        EC.sign(exp=10**400),
        EC.sign(exp=-(10**400)),
        EC.sign(exp=float("inf")),
        EC.sign(exp=float("nan")),
        EC.sign(exp=10**4_000),
        EC.sign(exp=[[]]),
        EC.sign(exp={"a": 1}),
        EC.sign(nbf=10**400),
        EC.sign(iat=10**400),
        EC.sign(nbf=float("inf")),
        EC.sign(aud=[[10**400]]),
        EC.sign(sub={"a": 10**400}),
        *map(with_header, [b'{"a":1}', b"[[]]", b"1e400", b"9" * 5_000, b"[" * 3_000, b"null", b"true"]),
    ],
    ids=range(40),
)
def test_an_invalid_token_is_rejected(path: Path, token: str) -> None:
    with pytest.raises(Unauthorized) as rejected:
        check(path, token)
    assert rejected.value.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


@given(st.text() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_any_text_is_rejected_as_an_invalid_token(token: str) -> None:
    async def act() -> None:
        keys = object.__new__(JWKSClient)
        keys.version, keys._keys, keys._is_url = 0, parse(document(EC)), False
        with pytest.raises(Unauthorized):
            await JWTAuthenticator(SETTINGS, keys).verify(token)

    asyncio.run(act())


def test_a_token_is_verified_once_until_it_expires_or_the_keys_change(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, now = EC.sign(), time.time()

    async def act(authenticator: JWTAuthenticator, keys: JWKSClient) -> None:
        assert authenticator.lookup(token) is None
        principal = await authenticator.verify(token)
        assert authenticator.lookup(token) == principal
        monkeypatch.setattr("auth.jwt_authenticator.time", lambda: now + 640)
        assert authenticator.lookup(token) is None
        monkeypatch.undo()
        await authenticator.verify(token)
        keys.reload()
        assert authenticator.lookup(token) is None
        await authenticator.verify(token)
        assert authenticator.lookup(token)
        monkeypatch.setattr(jwt_authenticator, "CACHE_LIMIT", 2)
        for sub in "bcd":
            await authenticator.verify(EC.sign(sub=sub))
        assert len(authenticator._cache) == 2 and authenticator.lookup(token) is None

    run(path, act)


def test_an_unknown_key_is_fetched_at_a_limited_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    new, newer = Signer("new"), Signer("newer")
    now = time.monotonic()
    monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
    with Issuer(EC) as issuer:

        async def act(authenticator: JWTAuthenticator, keys: JWKSClient) -> None:
            nonlocal now
            await authenticator.verify(EC.sign())
            assert issuer.asked == 1
            issuer.body = document(new)
            await authenticator.verify(new.sign())
            assert issuer.asked == 2
            with pytest.raises(Unauthorized):  # the key was withdrawn
                await authenticator.verify(EC.sign())
            issuer.body = document(new, newer)
            results = await asyncio.gather(
                *(authenticator.verify(newer.sign()) for _ in range(20)), return_exceptions=True
            )
            assert {type(result) for result in results} == {Unauthorized} and issuer.asked == 2
            now += jwks.REFETCH_INTERVAL
            await asyncio.gather(*(authenticator.verify(newer.sign()) for _ in range(20)))
            assert issuer.asked == 3

        run(issuer.url, act)


def test_a_withdrawn_key_is_used_for_at_most_one_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    now, token = time.monotonic(), EC.sign(exp=int(time.time()) + 90_000)
    monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
    with Issuer(EC) as issuer:

        async def act(authenticator: JWTAuthenticator, keys: JWKSClient) -> None:
            nonlocal now
            await authenticator.verify(token)
            issuer.body = document(RSA)
            assert authenticator.lookup(token)
            now += jwks.LIFETIME
            assert authenticator.lookup(token) is None
            with pytest.raises(Unauthorized):
                await authenticator.verify(token)

        run(issuer.url, act)


@pytest.mark.expects_log("The keys cannot be fetched")
@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (302, b""), (200, b"{"), (200, b'{"keys": []}'), (200, b" " * 2_000_000)]
)
def test_the_previous_keys_remain_in_use_while_the_issuer_fails(
    status: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
    with Issuer(EC) as issuer:

        async def act(authenticator: JWTAuthenticator, keys: JWKSClient) -> None:
            nonlocal now
            await authenticator.verify(EC.sign())
            issuer.status, issuer.body = status, body
            now += jwks.LIFETIME
            assert await authenticator.verify(EC.sign())
            assert issuer.asked == 2

        run(issuer.url, act)


@pytest.mark.expects_log("The keys cannot be fetched")
def test_an_invalid_http_response_does_not_cause_immediate_refetches() -> None:
    with Issuer(EC) as issuer:
        issuer.location = "/" * 100_000

        async def act(authenticator: JWTAuthenticator, keys: JWKSClient) -> None:
            for _ in range(3):
                with pytest.raises(ServiceUnavailable):
                    await authenticator.verify(EC.sign())
            assert issuer.asked == 2  # at the start, and for the first token

        run(issuer.url, act)


@pytest.mark.expects_log("The keys cannot be fetched")
def test_an_unknown_key_does_not_delay_verified_tokens_while_the_issuer_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
    with Issuer(EC) as issuer:

        async def act(authenticator: JWTAuthenticator, keys: JWKSClient) -> None:
            nonlocal now
            token = EC.sign()
            await authenticator.verify(token)
            issuer.status = 500
            with pytest.raises(Unauthorized):
                await authenticator.verify(EC.sign(headers={"kid": "unknown"}))
            assert issuer.asked == 2
            now += jwks.REFETCH_INTERVAL
            assert authenticator.lookup(token)

        run(issuer.url, act)


@pytest.mark.expects_log("The keys cannot be fetched")
def test_keys_that_could_not_be_fetched_at_startup_are_fetched_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with Issuer(EC) as issuer:
        good, issuer.body = issuer.body, b"{"

        async def act(authenticator: JWTAuthenticator, keys: JWKSClient) -> None:
            with pytest.raises(ServiceUnavailable):
                await authenticator.verify(EC.sign())
            issuer.body = good
            now = time.monotonic() + jwks.REFETCH_INTERVAL
            monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
            assert await authenticator.verify(EC.sign())

        run(issuer.url, act)


@pytest.mark.expects_log("The keys were not reloaded")
def test_a_key_file_is_reloaded_on_demand(path: Path) -> None:
    async def act(authenticator: JWTAuthenticator, keys: JWKSClient) -> None:
        path.write_text("{")
        authenticator.reload()
        assert await authenticator.verify(EC.sign())
        path.write_bytes(document(RSA))
        authenticator.reload()
        assert await authenticator.verify(RSA.sign())
        with pytest.raises(Unauthorized):
            await authenticator.verify(EC.sign())

    run(path, act)


def test_only_supported_public_signature_keys_are_used() -> None:
    weak = Signer("weak", "RSA", 1024)
    private: Any = jwt.get_algorithm_by_name("ES256")
    for unusable in (
        {"kty": "oct", "k": "c2VjcmV0", "kid": "s"},
        {"kty": "EC"},
        EC.public | {"use": "enc"},
        EC.public | {"alg": "HS256"},
        EC.public | {"x": "?"},
        private.to_jwk(EC.private, as_dict=True),
        weak.public,
        7,
    ):
        with pytest.raises(Error, match="no usable key"):
            parse(json.dumps({"keys": [unusable]}).encode())
        assert [*parse(json.dumps({"keys": [unusable, RSA.public]}).encode())] == ["rsa"]


def test_a_single_key_needs_no_id(path: Path) -> None:
    lone = {name: value for name, value in EC.public.items() if name != "kid"}
    path.write_text(json.dumps({"keys": [lone]}))
    assert check(path, jwt.encode(jwt.decode(EC.sign(), options={"verify_signature": False}), EC.private, "ES256"))


@pytest.mark.parametrize(
    "source",
    [
        "http://issuer.example/keys",
        "https://",
        "ftp://a/b",
        "https://user:password@issuer.example/keys",
        "/no/such/file",
        "https://[::1/keys",
        f"https://{'a' * 64}.example/keys",
        "https://issuer.example:99999/keys",
    ],
)
def test_keys_are_loaded_from_a_file_or_over_tls_only(source: str) -> None:
    with pytest.raises(Error) as rejected:
        run(source, lambda authenticator, _: authenticator.verify(""))
    assert "password@" not in str(rejected.value)
