"""What every handler shares: its parts, and who is asking. Nobody gets past it who may not."""

from collections.abc import Awaitable
from typing import ClassVar

from auth.forwarded import TrustedProxies
from auth.principal import UNAUTHENTICATED, Access, Principal
from errors import ChatterdError
from handlers import cors, doorkeeper
from handlers.answering import AnsweringHandler
from handlers.reading import ReadingHandler


class BaseHandler(ReadingHandler, AnsweringHandler):
    """A handler of the API.

    :cvar counted: whether its requests count towards those that one tenant or one address may send in a minute.
    :cvar needs: who may call it. Each route's handler says it; the server does not start otherwise.
    """

    counted: ClassVar[bool] = True
    needs: ClassVar[Access]

    def initialize(self) -> None:
        """Find the services (called by Tornado)."""
        self.services = self.settings["services"]
        self.asker = UNAUTHENTICATED
        self.log_fields = {}
        if self.services.proxies:
            self._look_behind_proxies(self.services.proxies)

    def _look_behind_proxies(self, proxies: TrustedProxies) -> None:
        request, headers = self.request, self.request.headers
        peer = str(request.remote_ip)
        request.protocol = proxies.scheme(peer, request.protocol, headers.get_list("X-Forwarded-Proto"))
        request.remote_ip = proxies.client_address(peer, headers.get_list("X-Forwarded-For"))

    @property
    def tenant(self) -> str:
        """Whose conversations and replies exist for this request."""
        return self.asker.tenant

    def prepare(self) -> Awaitable[None] | None:
        """Let the request in: it may not be one too many, nor its body too large, and its sender must be known, and
        allowed what it asks for."""
        if self.counted:
            self.services.limits.check_address(str(self.request.remote_ip))
        self.check_length()
        if cors.is_preflight(self.request, self.services.origins):
            cors.answer_preflight(self, self.allowed_methods())
            return None
        try:
            doorkeeper.check_origin(self.request, self.services.origins)
            asker = doorkeeper.who_asks(self.request, self.needs, self.services.identity)
            if not isinstance(asker, Principal):
                return self._let_in_later(asker)
            self._let_in(asker)
        except ChatterdError as error:
            self.refuse(error)
        return None

    async def _let_in_later(self, asking: Awaitable[Principal]) -> None:
        try:
            self._let_in(await asking)
        except ChatterdError as error:
            self.refuse(error)

    def _let_in(self, asker: Principal) -> None:
        self.asker = asker
        if self.counted and asker is not UNAUTHENTICATED:
            self.services.limits.check_tenant(asker)
        doorkeeper.check_need(self.needs, asker)
