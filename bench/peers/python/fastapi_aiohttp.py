"""The tutorial's server in Python for production: FastAPI on uvicorn, aiohttp's client, asyncpg and orjson."""
# mypy: disable-error-code="import-not-found, untyped-decorator, misc"

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import orjson
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

INSERT = "INSERT INTO chatts (username, message, id, appid) VALUES ($1, $2, gen_random_uuid(), $3)"
HISTORY = "SELECT username, message FROM chatts WHERE appid = $1 ORDER BY time ASC"
CHAT_URL = f"http://{os.environ['OLLAMA_HOST']}/api/chat"


class Message(BaseModel):
    """What one of them said."""

    role: str
    content: str


class Prompt(BaseModel):
    """The body of a request."""

    appID: str
    model: str
    messages: list[Message]
    stream: bool


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Hold the pools open while the server runs."""
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10, reset=unchanged) as database,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as http,
    ):
        app.state.database, app.state.http = database, http
        yield {}


async def unchanged(connection: Any) -> None:
    """Give a connection back without a round trip: nothing here changes the session's state."""


app = FastAPI(lifespan=lifespan)


@app.post("/llmchat")
async def llmchat(prompt: Prompt) -> StreamingResponse:
    """Record the prompt, and stream the reply as events."""
    async with app.state.database.acquire() as connection:
        for message in prompt.messages:
            try:
                await connection.execute(INSERT, message.role, message.content, prompt.appID)
            except asyncpg.PostgresError as error:
                raise HTTPException(406, str(error)) from error
        rows = await connection.fetch(HISTORY, prompt.appID)
    messages = [{"role": row["username"], "content": row["message"]} for row in rows]
    request = {"model": prompt.model, "messages": messages, "stream": prompt.stream}
    response = await app.state.http.post(
        CHAT_URL, data=orjson.dumps(request), headers={"Content-Type": "application/json"}
    )
    return StreamingResponse(
        events(prompt.appID, response), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


async def events(appid: str, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Ollama's lines as events, and the reply stored before the last of them goes out."""
    reply: list[str] = []
    try:
        async with response:
            async for line in response.content:
                line = line.rstrip(b"\n")
                if not (said := read(line)).get("model"):
                    yield b"event: error\ndata: " + line.replace(b'\\"', b"'") + b"\n\n"
                    continue
                reply.append(said["message"]["content"])
                failure = await store(appid, "".join(reply)) if said["done"] else b""
                yield b"data: " + line + b"\n\n"
                if failure:
                    yield failure
    except aiohttp.ClientError as error:
        yield error_event(error)


def read(line: bytes) -> dict[str, Any]:
    """What a line says; nothing if it is not JSON."""
    try:
        said: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return said


async def store(appid: str, reply: str) -> bytes:
    """Record the reply; the event that says why not, if it cannot be."""
    try:
        async with app.state.database.acquire() as connection:
            await connection.execute(INSERT, "assistant", re.sub(r"\s+", " ", reply), appid)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        return error_event(error)
    return b""


def error_event(error: Exception) -> bytes:
    """Say in an event what went wrong."""
    data: bytes = orjson.dumps({"error": str(error)})
    return b"event: error\ndata: " + data + b"\n\n"
