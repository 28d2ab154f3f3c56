"""Who is let in: where a request comes from, who sends it, and what its route needs of them."""

from collections.abc import Awaitable, Sequence

from tornado.httputil import HTTPServerRequest
from tornado.routing import Rule

from auth.identity_provider import IdentityProvider
from auth.origins import AllowedOrigins
from auth.principal import ANONYMOUS_OPERATOR, UNAUTHENTICATED, Access, Principal
from errors import Forbidden

READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing (RFC 9110, section 9.2.1)."""

COOKIE = "chatterd"
HOST_COOKIE = "__Host-chatterd"
"""The cookie's name where it only travels over TLS: no other host can set one of this name (RFC 6265bis, 4.1.3.2)."""


def check_origin(request: HTTPServerRequest, origins: AllowedOrigins) -> None:
    """Refuse what a page of another site makes a browser send to change something.

    :raises Forbidden: it is from another site, and ``--cors-origins`` does not name that.
    """
    headers = request.headers
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
    if (origin is None and site is None) or request.method in READING:
        return
    if not origins.allow(origin, site, headers.get("Host", ""), request.protocol == "https"):
        raise Forbidden("A page of another site may not do this. An operator can allow its origin with --cors-origins.")


def who_asks(
    request: HTTPServerRequest, need: Access, identity: IdentityProvider | None
) -> Principal | Awaitable[Principal]:
    """Find out who sent a request, if the route needs to know.

    :raises Unauthorized: nothing in it says so. Raised by what is awaited, too.
    """
    if identity is None:
        return ANONYMOUS_OPERATOR
    if need is Access.PUBLIC:
        return UNAUTHENTICATED
    token = bearer(request.headers.get("Authorization", ""))
    known = identity.authenticate_now(token, _session(request) if token is None else None)
    return known or identity.authenticate(token or "")


def bearer(authorization: str) -> str | None:
    """The token in a header ``Authorization`` (RFC 6750, section 2.1); None if it is of another scheme, or missing."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _session(request: HTTPServerRequest) -> str | None:
    """The cookie's value. Over TLS only ``__Host-`` counts: the other could be a neighbouring host's, or of whoever is
    in the way of plain HTTP, for a browser to say in their session what they want to read."""
    for name in (HOST_COOKIE,) if request.protocol == "https" else (HOST_COOKIE, COOKIE):
        if name in request.cookies:
            return request.cookies[name].value
    return None


def check_need(need: Access, asker: Principal) -> None:
    """Refuse who is known, but may not.

    :raises Forbidden: only operators may.
    """
    if need is Access.OPERATOR and not asker.operator:
        raise Forbidden("Only operators of this server may see this. Sign in with a token of an operator.")


def check_routes(routes: Sequence[Rule]) -> None:
    """Let no server start that has a route of which nobody said who may call it.

    :raises TypeError: a handler has no ``needs``.
    """
    for rule in routes:
        if not isinstance(getattr(rule.target, "needs", None), Access):
            raise TypeError(f"{rule.target} must say whom it is for: needs = Need.ANYONE, ASKER or OPERATOR")
