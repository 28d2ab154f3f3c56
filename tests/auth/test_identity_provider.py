"""Settings of identity that do not go together are refused with a sentence."""

from typing import Any

import pytest
from tornado.options import Error

from auth.identity_provider import validate_settings
from settings import Settings

JWT = {"auth": "jwt", "jwt_issuer": "i", "jwt_audience": "a", "jwt_keys": "k"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"address": "localhost"},
        {"address": "127.8.9.1"},
        {"address": "::1"},
        {"address": "", "allow_unauthenticated": True},
        {"address": "0.0.0.0", "auth": "token", "token_file": "f"},
        {"address": "0.0.0.0", **JWT},
        JWT | {"jwt_operator_claim": "roles=admin"},
    ],
)
def test_what_goes_together_is_taken(settings: dict[str, Any]) -> None:
    validate_settings(Settings(**settings))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"auth": "basic"}, "--auth is one of none, token, jwt"),
        ({"auth": ""}, "--auth is one of"),
        ({"auth": "token"}, "--auth=token needs --token-file"),
        ({"auth": "jwt"}, "--auth=jwt needs --jwt-issuer"),
        (JWT | {"jwt_keys": ""}, "needs --jwt-keys"),
        (JWT | {"jwt_tenant_claim": ""}, "needs --jwt-tenant-claim"),
        ({"token_file": "f"}, "--token-file is for --auth=token, but --auth is none"),
        (JWT | {"token_file": "f"}, "--token-file is for --auth=token, but --auth is jwt"),
        ({"jwt_issuer": "i"}, "--jwt-issuer is for --auth=jwt"),
        ({"jwt_operator_claim": "o"}, "--jwt-operator-claim is for --auth=jwt"),
        ({"address": "0.0.0.0"}, "without --auth anybody"),
        ({"address": ""}, "without --auth anybody"),
        ({"address": "::"}, "without --auth anybody"),
        ({"address": "192.168.1.5"}, "--allow-unauthenticated"),
        ({"address": "chat.example"}, "--allow-unauthenticated"),
    ],
)
def test_what_does_not_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Error, match=sentence):
        validate_settings(Settings(**settings))
