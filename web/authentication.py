"""Authentication and authorization of a request."""

from collections.abc import Sequence

from tornado.httputil import HTTPServerRequest
from tornado.routing import Rule

from auth.identity_provider import IdentityProvider
from auth.principal import ANONYMOUS_OPERATOR, UNAUTHENTICATED, Access, Principal
from errors import Forbidden

COOKIE = "chatterd"
HOST_COOKIE = "__Host-chatterd"
"""The cookie's name over TLS: no other host can set a cookie of this name (RFC 6265bis, section 4.1.3.2)."""


def cookie_name(tls: bool, base_path: str) -> str:
    """Return the name of the session cookie.

    Below ``--base-path`` it is not sent to other servers of the same host, which a ``__Host-`` cookie is. Its name
    distinguishes it from the cookies of other chatterds there.
    """
    if not base_path:
        return HOST_COOKIE if tls else COOKIE
    return ("__Secure-" if tls else "") + COOKIE + base_path.replace("/", ".")


async def authenticate(
    request: HTTPServerRequest, access: Access, identity: IdentityProvider | None, base_path: str = ""
) -> Principal:
    """Find the sender of a request by its bearer token or its session cookie.

    :param base_path: ``--base-path``, on which the cookie's name depends.
    :raises Unauthorized: the route requires authentication, and the request has no valid token or cookie.
    :raises ServiceUnavailable: the token cannot be verified now.
    """
    if identity is None:
        return ANONYMOUS_OPERATOR
    if access is Access.PUBLIC:
        return UNAUTHENTICATED
    token = parse_bearer(request.headers.get("Authorization", ""))
    known = identity.authenticate_now(token, _session_cookie(request, base_path) if token is None else None)
    return known or await identity.authenticate(token or "")


def authorize(access: Access, principal: Principal) -> None:
    """Check that a principal may call a route.

    :raises Forbidden: the route is for operators only.
    """
    if access is Access.OPERATOR and not principal.operator:
        raise Forbidden("This is for operators of the server only. Sign in with an operator's token.")


def parse_bearer(authorization: str) -> str | None:
    """Return the token of an ``Authorization`` header (RFC 6750, section 2.1); None for another scheme or no header."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _session_cookie(request: HTTPServerRequest, base_path: str) -> str | None:
    """Return the session cookie's value.

    Over TLS only the cookie for TLS is accepted: a neighbouring host or an attacker on plain HTTP could have set
    the other one, to make a browser write into their session.
    """
    for tls in (True,) if request.protocol == "https" else (True, False):
        name = cookie_name(tls, base_path)
        if name in request.cookies:
            return request.cookies[name].value
    return None


def check_routes(routes: Sequence[Rule]) -> None:
    """Check that every route declares who may call it.

    :raises TypeError: a handler has no ``access``.
    """
    for rule in routes:
        if not isinstance(getattr(rule.target, "access", None), Access):
            raise TypeError(f"{rule.target} must declare access: Access.PUBLIC, AUTHENTICATED or OPERATOR")
