"""The tutorial's server in Python as a course would write it: Starlette, httpx, sse-starlette and psycopg."""
# mypy: disable-error-code="import-not-found, misc"

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
from psycopg_pool import AsyncConnectionPool
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

INSERT = "INSERT INTO chatts (username, message, id, appid) VALUES (%s, %s, gen_random_uuid(), %s)"
HISTORY = "SELECT username, message FROM chatts WHERE appid = %s ORDER BY time ASC"
CHAT_URL = f"http://{os.environ['OLLAMA_HOST']}/api/chat"


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Keep the pools open while the server runs."""
    async with (
        AsyncConnectionPool(
            os.environ["DATABASE_URL"],
            min_size=10,
            max_size=10,
            timeout=600,  # the default, 30 s, loses replies when the server is overloaded
            open=False,
            kwargs={"autocommit": True},
        ) as app.state.database,
        httpx.AsyncClient(
            timeout=None,  # noqa: S113  # a model may be silent for long
            # httpx's own number of idle connections: each more makes every request's begin and end slower.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=False,
        ) as app.state.http,
    ):
        await app.state.database.wait()
        yield


async def llmchat(request: Request) -> Response:
    """Store the prompt, and stream the reply as events."""
    try:
        prompt = await request.json()
        appid, model, stream = prompt["appID"], prompt["model"], prompt["stream"]
        rows = [(message["role"], message["content"], appid) for message in prompt["messages"]]
    except (ValueError, LookupError, TypeError) as error:
        return JSONResponse({"error": f"Unprocessable: {error!r}"}, 422)
    async with app.state.database.connection() as connection:
        for message in rows:
            try:
                await connection.execute(INSERT, message)
            except psycopg.Error as error:
                return JSONResponse({"error": str(error)}, 406)
        cursor = await connection.execute(HISTORY, (appid,))
        messages = [{"role": role, "content": content} for role, content in await cursor.fetchall()]
    return EventSourceResponse(events(appid, {"model": model, "messages": messages, "stream": stream}), sep="\n")


async def events(appid: str, request: dict[str, Any]) -> AsyncIterator[dict[str, str]]:
    """Yield Ollama's lines as events; store the reply before the last of them."""
    reply = ""
    try:
        async with app.state.http.stream("POST", CHAT_URL, json=request) as response:
            async for line in response.aiter_lines():
                try:
                    parsed = json.loads(line)
                except ValueError:
                    parsed = {}
                if not parsed.get("model"):
                    yield {"event": "error", "data": line.replace('\\"', "'")}
                    continue
                reply += parsed["message"]["content"]
                failure = await store(appid, reply) if parsed["done"] else None
                yield {"data": line}
                if failure:
                    yield failure
    except httpx.HTTPError as error:
        yield error_event(error)


async def store(appid: str, reply: str) -> dict[str, str] | None:
    """Store the reply; return an error event if that fails, else nothing."""
    try:
        async with app.state.database.connection() as connection:
            await connection.execute(INSERT, ("assistant", re.sub(r"\s+", " ", reply), appid))
    except psycopg.Error as error:
        return error_event(error)
    return None


def error_event(error: Exception) -> dict[str, str]:
    """Return an error event."""
    return {"event": "error", "data": json.dumps({"error": str(error)})}


app = Starlette(routes=[Route("/llmchat", llmchat, methods=["POST"])], lifespan=lifespan)
