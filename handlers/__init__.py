"""HTTP only: parse, call relay or db, answer. One file per noun, its routes at its end."""

from tornado.web import Application

from handlers import doorkeeper, health, llmchat, llmprompt, metrics, models, pages, sign_in, status
from handlers.observed import log_request
from handlers.services import Services
from handlers.unknown_path import UnknownPath

ROUTES = [
    *llmchat.ROUTES,
    *llmprompt.ROUTES,
    *models.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *status.ROUTES,
    *sign_in.ROUTES,
    *pages.ROUTES,
]


def application(services: Services) -> Application:
    """Make the Tornado application that answers every route.

    :raises TypeError: a route does not say who may call it.
    """
    doorkeeper.check_routes(ROUTES)
    return Application(ROUTES, default_handler_class=UnknownPath, log_function=log_request, services=services)
