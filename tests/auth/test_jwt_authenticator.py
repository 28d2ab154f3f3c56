"""JSON web tokens: what is taken, what is refused, and how keys come and go."""

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
    source: str | Path, use: Callable[[JWTAuthenticator, JWKSClient], Awaitable[Result]], settings: Settings = SETTINGS
) -> Result:
    """Do something with keys from there, in a loop of its own."""

    async def run() -> Result:
        keys = JWKSClient(str(source))
        await keys.open()
        try:
            return await use(JWTAuthenticator(settings, keys), keys)
        finally:
            keys.close()

    return asyncio.run(run())


def check(source: str | Path, token: str, settings: Settings = SETTINGS) -> Principal:
    return run(source, lambda known, _: known.verify(token), settings)


@pytest.mark.parametrize("signer", [EC, RSA, OKP], ids=lambda signer: signer.algorithm)
def test_a_token_says_whose_it_is(path: Path, signer: Signer) -> None:
    assert check(path, signer.sign()) == Principal("alice", name="alice")
    assert check(path, signer.sign(name="Alice A.", aud=["other", AUDIENCE])).name == "Alice A."


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "\ud800", 7])
def test_a_name_that_no_cookie_or_answer_could_carry_is_left_out(path: Path, name: object) -> None:
    assert check(path, EC.sign(name=name)).name == "alice"


def test_an_rsa_key_signs_with_any_rsa_algorithm_unless_it_names_its_own(path: Path) -> None:
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
def test_operators_are_whom_the_claim_says(path: Path, claim: str, claims: dict[str, Any], operator: bool) -> None:
    settings = Settings(**{**vars(SETTINGS), "jwt_operator_claim": claim})
    assert check(path, EC.sign(**claims), settings).operator is operator


def test_the_tenant_is_in_the_claim_that_the_operator_names(path: Path) -> None:
    settings = Settings(**{**vars(SETTINGS), "jwt_tenant_claim": "org"})
    assert check(path, EC.sign(org="acme"), settings).tenant == "acme"
    for wrong in (None, "", 7, ["acme"], "a\0b", "x" * 201):
        with pytest.raises(Unauthorized, match="org"):
            check(path, EC.sign(org=wrong), settings)


def shared_secret_confusion() -> str:
    """A token signed with the public key as if it were a secret that we share (CVE-2015-9235)."""
    secret = RSA.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    body = EC.sign().split(".")[1]
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "rsa"}).encode()).rstrip(b"=").decode()
    algorithm: Any = jwt.get_algorithm_by_name("HS256")
    signature = base64.urlsafe_b64encode(algorithm.sign(f"{head}.{body}".encode(), secret)).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


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
        EC.sign(headers={"kid": "nobody's"}),
        Signer("ec").sign(),
        EC.sign(headers={"crit": ["x"], "x": 1}),
        jwt.encode({"sub": "alice"}, None, "none", headers={"kid": "ec"}),  # type: ignore[arg-type]
        shared_secret_confusion(),
    ],
    ids=range(21),
)
def test_a_token_that_is_not_the_issuers_for_us_and_now_is_refused(path: Path, token: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        check(path, token)
    assert refused.value.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


@given(st.text() | st.lists(st.text(), min_size=3, max_size=3).map(".".join))
def test_whatever_a_token_holds_is_refused_with_a_sentence(token: str) -> None:
    async def use() -> None:
        keys = object.__new__(JWKSClient)
        keys.version, keys._keys, keys._published = 0, parse(document(EC)), False
        with pytest.raises(Unauthorized):
            await JWTAuthenticator(SETTINGS, keys).verify(token)

    asyncio.run(use())


def test_a_token_is_checked_once_until_it_ends_or_the_keys_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, now = EC.sign(), time.time()

    async def use(known: JWTAuthenticator, keys: JWKSClient) -> None:
        assert known.lookup(token) is None
        asker = await known.verify(token)
        assert known.lookup(token) == asker
        monkeypatch.setattr("auth.jwt_authenticator.time", lambda: now + 640)
        assert known.lookup(token) is None
        monkeypatch.undo()
        await known.verify(token)
        keys.reload()
        assert known.lookup(token) is None
        await known.verify(token)
        assert known.lookup(token)
        monkeypatch.setattr(jwt_authenticator, "CACHE_LIMIT", 2)
        for sub in "bcd":
            await known.verify(EC.sign(sub=sub))
        assert len(known._cache) == 2 and known.lookup(token) is None

    run(path, use)


def test_keys_that_are_published_are_fetched_again_for_a_new_one_but_not_often(monkeypatch: pytest.MonkeyPatch) -> None:
    new, newer = Signer("new"), Signer("newer")
    now = time.monotonic()
    monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
    with Issuer(EC) as issuer:

        async def use(known: JWTAuthenticator, keys: JWKSClient) -> None:
            nonlocal now
            await known.verify(EC.sign())
            assert issuer.asked == 1
            issuer.body = document(new)
            await known.verify(new.sign())
            assert issuer.asked == 2
            with pytest.raises(Unauthorized):  # it was withdrawn
                await known.verify(EC.sign())
            issuer.body = document(new, newer)
            results = await asyncio.gather(*(known.verify(newer.sign()) for _ in range(20)), return_exceptions=True)
            assert {type(result) for result in results} == {Unauthorized} and issuer.asked == 2
            now += jwks.REFETCH_INTERVAL
            await asyncio.gather(*(known.verify(newer.sign()) for _ in range(20)))
            assert issuer.asked == 3

        run(issuer.url, use)


def test_a_key_that_is_withdrawn_counts_for_an_hour_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now, token = time.monotonic(), EC.sign(exp=int(time.time()) + 90_000)
    monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
    with Issuer(EC) as issuer:

        async def use(known: JWTAuthenticator, keys: JWKSClient) -> None:
            nonlocal now
            await known.verify(token)
            issuer.body = document(RSA)
            assert known.lookup(token)
            now += jwks.LIFETIME
            assert known.lookup(token) is None
            with pytest.raises(Unauthorized):
                await known.verify(token)

        run(issuer.url, use)


@pytest.mark.expects_log("The keys cannot be fetched")
@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (302, b""), (200, b"{"), (200, b'{"keys": []}'), (200, b" " * 2_000_000)]
)
def test_while_the_issuer_has_no_keys_the_old_ones_do(
    status: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
    with Issuer(EC) as issuer:

        async def use(known: JWTAuthenticator, keys: JWKSClient) -> None:
            nonlocal now
            await known.verify(EC.sign())
            issuer.status, issuer.body = status, body
            now += jwks.LIFETIME
            assert await known.verify(EC.sign())
            assert issuer.asked == 2

        run(issuer.url, use)


@pytest.mark.expects_log("The keys cannot be fetched")
def test_an_answer_that_is_hardly_http_is_no_reason_to_ask_at_once_again() -> None:
    with Issuer(EC) as issuer:
        issuer.location = "/" * 100_000

        async def use(known: JWTAuthenticator, keys: JWKSClient) -> None:
            for _ in range(3):
                with pytest.raises(ServiceUnavailable):
                    await known.verify(EC.sign())
            assert issuer.asked == 2  # at the start, and for the first token

        run(issuer.url, use)


@pytest.mark.expects_log("The keys cannot be fetched")
def test_a_strangers_token_does_not_make_known_ones_wait_for_an_issuer_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
    with Issuer(EC) as issuer:

        async def use(known: JWTAuthenticator, keys: JWKSClient) -> None:
            nonlocal now
            token = EC.sign()
            await known.verify(token)
            issuer.status = 500
            with pytest.raises(Unauthorized):
                await known.verify(EC.sign(headers={"kid": "nobody's"}))
            assert issuer.asked == 2
            now += jwks.REFETCH_INTERVAL
            assert known.lookup(token)

        run(issuer.url, use)


@pytest.mark.expects_log("The keys cannot be fetched")
def test_a_server_that_never_got_keys_says_so_and_goes_on_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    with Issuer(EC) as issuer:
        good, issuer.body = issuer.body, b"{"

        async def use(known: JWTAuthenticator, keys: JWKSClient) -> None:
            with pytest.raises(ServiceUnavailable):
                await known.verify(EC.sign())
            issuer.body = good
            now = time.monotonic() + jwks.REFETCH_INTERVAL
            monkeypatch.setattr("auth.jwks.monotonic", lambda: now)
            assert await known.verify(EC.sign())

        run(issuer.url, use)


@pytest.mark.expects_log("The keys stay as they were")
def test_a_file_of_keys_is_read_again_on_demand(path: Path) -> None:
    async def use(known: JWTAuthenticator, keys: JWKSClient) -> None:
        path.write_text("{")
        known.reload()
        assert await known.verify(EC.sign())
        path.write_bytes(document(RSA))
        known.reload()
        assert await known.verify(RSA.sign())
        with pytest.raises(Unauthorized):
            await known.verify(EC.sign())

    run(path, use)


def test_only_public_keys_for_signatures_are_used() -> None:
    weak = Signer("weak", "RSA", 1024)
    private: Any = jwt.get_algorithm_by_name("ES256")
    for useless in (
        {"kty": "oct", "k": "c2VjcmV0", "kid": "s"},
        {"kty": "EC"},
        EC.public | {"use": "enc"},
        EC.public | {"alg": "HS256"},
        EC.public | {"x": "?"},
        private.to_jwk(EC.private, as_dict=True),
        weak.public,
        7,
    ):
        with pytest.raises(Error, match="no key"):
            parse(json.dumps({"keys": [useless]}).encode())
        assert [*parse(json.dumps({"keys": [useless, RSA.public]}).encode())] == ["rsa"]


def test_a_lone_key_needs_no_id(path: Path) -> None:
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
def test_keys_come_from_a_file_or_over_tls(source: str) -> None:
    with pytest.raises(Error) as refused:
        run(source, lambda known, _: known.verify(""))
    assert "password@" not in str(refused.value)
