"""/sign-in: the page, and the exchange of a token for a cookie, which a browser's EventSource sends, and back."""

import email.utils
from typing import Any

import msgspec
from tornado.routing import PathMatches, Rule

from auth.principal import Access
from errors import BadRequest, NotFound, UnprocessableContent
from handlers.base import BaseHandler
from handlers.doorkeeper import COOKIE, HOST_COOKIE
from handlers.pages import FileHandler


class SignInHandler(FileHandler):
    """Signs a browser in and out. Scripts of its pages never see the cookie, and no other site makes it travel."""

    route = "/sign-in"
    counted = True

    async def post(self) -> None:
        """Take a token, give a cookie, and say who that is and until when (s since 1970)."""
        token = self._token()
        if self.services.identity is None:
            raise NotFound("Nobody has to sign in to this server.")
        asker, session, until = await self.services.identity.sign_in(token)
        self._set_cookie(HOST_COOKIE if self._travels_over_tls() else COOKIE, session, until)
        self.write_json({"name": asker.name, "tenant": asker.tenant, "operator": asker.operator, "until": until})

    def delete(self) -> None:
        """Take the cookie back."""
        for name in (HOST_COOKIE, COOKIE):
            self._set_cookie(name, "", 0.0)
        self.set_status(204)
        self.clear_header("Content-Type")  # there is no content

    def _token(self) -> str:
        try:
            body: Any = msgspec.json.decode(self.json_body())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest("The body is not JSON.") from error
        except RecursionError as error:
            raise BadRequest("The body is nested too deeply.") from error
        token = body.get("token") if isinstance(body, dict) else None
        if not isinstance(token, str) or not token.strip():
            raise UnprocessableContent("token is missing: send the token to sign in with.")
        return token.strip()

    def _travels_over_tls(self) -> bool:
        """Whether the browser speaks TLS, be it to us or to a balancer: the page's origin says so if need be."""
        return self.request.protocol == "https" or self.request.headers.get("Origin", "").lower().startswith("https:")

    def _set_cookie(self, name: str, value: str, until: float) -> None:
        self.add_header(
            "Set-Cookie",
            f"{name}={value}; Expires={email.utils.formatdate(until, usegmt=True)}; Path=/; HttpOnly; SameSite=Strict"
            + ("; Secure" if name == HOST_COOKIE else ""),
        )


class AskerHandler(BaseHandler):
    """Who is asking, as this server sees it."""

    route = "/sign-in/asker"
    needs = Access.AUTHENTICATED

    def get(self) -> None:
        """Say who; without a name where nobody has to sign in."""
        self.write_json({"name": self.asker.name, "tenant": self.asker.tenant, "operator": self.asker.operator})


ROUTES = [
    Rule(PathMatches(r"/sign-in/?"), SignInHandler, {"name": "sign_in.html"}),
    Rule(PathMatches(r"/sign-in/asker"), AskerHandler),
]
