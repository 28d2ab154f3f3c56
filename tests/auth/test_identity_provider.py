"""The validation of the settings of authentication."""

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
def test_consistent_settings_are_accepted(settings: dict[str, Any]) -> None:
    validate_settings(Settings(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auth": "basic"}, "--auth must be one of none, token, jwt"),
        ({"auth": ""}, "--auth must be one of"),
        ({"auth": "token"}, "--auth=token requires --token-file"),
        ({"auth": "jwt"}, "--auth=jwt requires --jwt-issuer"),
        (JWT | {"jwt_keys": ""}, "requires --jwt-keys"),
        (JWT | {"jwt_tenant_claim": ""}, "requires --jwt-tenant-claim"),
        ({"token_file": "f"}, "--token-file requires --auth=token, but --auth is none"),
        (JWT | {"token_file": "f"}, "--token-file requires --auth=token, but --auth is jwt"),
        ({"jwt_issuer": "i"}, "--jwt-issuer requires --auth=jwt"),
        ({"jwt_operator_claim": "o"}, "--jwt-operator-claim requires --auth=jwt"),
        ({"address": "0.0.0.0"}, "with --auth=none, every client"),
        ({"address": ""}, "with --auth=none, every client"),
        ({"address": "::"}, "with --auth=none, every client"),
        ({"address": "192.168.1.5"}, "--allow-unauthenticated"),
        ({"address": "chat.example"}, "--allow-unauthenticated"),
    ],
)
def test_inconsistent_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message):
        validate_settings(Settings(**settings))
