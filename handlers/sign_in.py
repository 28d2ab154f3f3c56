"""``/sign-in``: the page, and the exchange of a bearer token for a session cookie, which EventSource can send."""

import email.utils
from typing import Any

from tornado.routing import PathMatches, Rule

from auth.principal import Access, Principal
from errors import NotFound, UnprocessableContent
from handlers.pages import FileHandler
from web.authentication import cookie_name
from web.base import BaseHandler
from web.json_body.decoding import decode_checked, decode_text, one_at_a_time

MAX_SIGN_IN_BYTES = 20_480
"""Bytes of a body: a JSON Web Token of the longest kind (``auth.identity_provider``), and the JSON around it."""


class SignInHandler(FileHandler):
    """Signs a browser in and out. The cookie is hidden from scripts, and not sent with requests of other sites."""

    route = "/sign-in"
    rate_limited = True
    body_limit = MAX_SIGN_IN_BYTES

    async def post(self) -> None:
        """Verify a token, set the session cookie, and respond with the principal and the session's end (Unix time)."""
        token = await self._parse_token()
        if self.services.identity is None:
            raise NotFound("This server does not require signing in.")
        principal, session, expires = await self.services.identity.sign_in(token)
        self._set_session_cookie(self._uses_tls(), session, expires)
        self.write_json(_to_json(principal) | {"until": expires})

    def delete(self) -> None:
        """Delete the session cookie."""
        for tls in (True, False):
            self._set_session_cookie(tls, "", 0.0)
        self.set_status(204)
        self.clear_header("Content-Type")

    async def _parse_token(self) -> str:
        body = self.json_body()
        async with one_at_a_time(self.services.large_bodies, body):
            fields = await decode_checked(body, self.services.settings.max_json_depth)
            token = await decode_text(fields.get("token"))
        if not isinstance(token, str) or not token.strip():
            raise UnprocessableContent("token is missing: send the token to sign in with.")
        return token.strip()

    def _uses_tls(self) -> bool:
        """Whether the browser uses TLS, to this server or to a balancer, as the page's origin shows."""
        return self.request.protocol == "https" or self.request.headers.get("Origin", "").lower().startswith("https:")

    def _set_session_cookie(self, tls: bool, value: str, expires: float) -> None:
        name = cookie_name(tls, self.services.settings.base_path)
        self.add_header(
            "Set-Cookie",
            f"{name}={value}; Expires={email.utils.formatdate(expires, usegmt=True)}; Path={self.public_path('/')}; "
            f"HttpOnly; SameSite=Strict{'; Secure' if tls else ''}",
        )


class WhoAmIHandler(BaseHandler):
    """The principal of the request."""

    route = "/sign-in/me"
    access = Access.AUTHENTICATED

    def get(self) -> None:
        """Respond with the principal; its name is empty where signing in is not required."""
        self.write_json(_to_json(self.principal))

    head = get


def _to_json(principal: Principal) -> dict[str, Any]:
    return {"name": principal.name, "tenant": principal.tenant, "operator": principal.operator}


ROUTES = [
    Rule(PathMatches(r"/sign-in/?"), SignInHandler, {"name": "sign_in.html", "path": "/sign-in"}),
    Rule(PathMatches(r"/sign-in/me"), WhoAmIHandler),
]
