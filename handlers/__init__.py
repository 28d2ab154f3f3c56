"""HTTP only: parse, call relay or db, answer. One file per noun, its routes at its end."""

from tornado.web import Application

from handlers import health, llmchat, llmprompt, metrics, models, pages, status
from handlers.base import Services, UnknownPath, log_request

ROUTES = [
    *llmchat.ROUTES,
    *llmprompt.ROUTES,
    *models.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *status.ROUTES,
    *pages.ROUTES,
]


def application(services: Services) -> Application:
    """Make the Tornado application that answers every route."""
    return Application(ROUTES, default_handler_class=UnknownPath, log_function=log_request, services=services)
