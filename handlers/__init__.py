"""The routes. Handlers parse the request, call ``relay`` or ``db``, and respond; one file per noun."""

from tornado.web import Application

from handlers import conversations, course, health, llmchat, llmprompt, metrics, models, pages, sign_in, status
from handlers.not_found import NotFoundHandler
from web import authentication
from web.access_log import log_request
from web.services import Services

ROUTES = [
    *llmchat.ROUTES,
    *conversations.ROUTES,
    *course.ROUTES,
    *llmprompt.ROUTES,
    *models.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *status.ROUTES,
    *sign_in.ROUTES,
    *pages.ROUTES,
]


def create_application(services: Services) -> Application:
    """Create the Tornado application with all routes.

    :raises TypeError: a route's handler does not declare who may call it.
    """
    authentication.check_routes(ROUTES)
    return Application(ROUTES, default_handler_class=NotFoundHandler, log_function=log_request, services=services)
