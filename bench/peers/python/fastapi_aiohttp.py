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
    """A message of the conversation."""

    role: str
    content: str


class Prompt(BaseModel):
    """The body of a prompt."""

    appID: str
    model: str
    messages: list[Message]
    stream: bool


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Keep the pools open while the server runs."""
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10, reset=keep_state) as database,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as http,
    ):
        app.state.database, app.state.http = database, http
        yield {}


async def keep_state(connection: Any) -> None:
    """Return a connection to the pool without a round trip: no request changes the session's state."""


app = FastAPI(lifespan=lifespan)


@app.post("/llmchat")
async def llmchat(prompt: Prompt) -> StreamingResponse:
    """Store the prompt, and stream the reply as events."""
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
    """Yield Ollama's lines as events; store the reply before the last of them."""
    reply: list[str] = []
    try:
        async with response:
            async for line in response.content:
                line = line.rstrip(b"\n")
                if not (parsed := parse(line)).get("model"):
                    yield b"event: error\ndata: " + line.replace(b'\\"', b"'") + b"\n\n"
                    continue
                reply.append(parsed["message"]["content"])
                failure = await store(appid, "".join(reply)) if parsed["done"] else b""
                yield b"data: " + line + b"\n\n"
                if failure:
                    yield failure
    except aiohttp.ClientError as error:
        yield error_event(error)


def parse(line: bytes) -> dict[str, Any]:
    """Parse a line; return an empty dictionary if it is not JSON."""
    try:
        parsed: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return parsed


async def store(appid: str, reply: str) -> bytes:
    """Store the reply; return an error event if that fails, else nothing."""
    try:
        async with app.state.database.acquire() as connection:
            await connection.execute(INSERT, "assistant", re.sub(r"\s+", " ", reply), appid)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        return error_event(error)
    return b""


def error_event(error: Exception) -> bytes:
    """Return an error event."""
    data: bytes = orjson.dumps({"error": str(error)})
    return b"event: error\ndata: " + data + b"\n\n"
