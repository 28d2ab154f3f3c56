// The tutorial's server in Node.js for production: plain http on both sides, and pg.

import http from "node:http";
import { once } from "node:events";
import pg from "pg";

const INSERT = {
  name: "insert",
  text: "INSERT INTO chatts (username, message, id, appid) VALUES ($1, $2, gen_random_uuid(), $3)",
};
const HISTORY = {
  name: "history",
  text: "SELECT username, message FROM chatts WHERE appid = $1 ORDER BY time ASC",
};

const chatUrl = new URL(`http://${process.env.OLLAMA_HOST}/api/chat`);
const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity, maxFreeSockets: 4096 });
const database = new pg.Pool({ connectionString: process.env.DATABASE_URL, min: 10, max: 10, idleTimeoutMillis: 0 });
database.on("error", (error) => console.error(`database: ${error.message}`));

class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function llmchat(request, response) {
  const { appID, model, messages, stream } = parsePrompt(await text(request));
  const history = await record(appID, messages);
  const upstream = await ask({ model, messages: history, stream });
  const closed = new AbortController();
  response.once("close", () => {
    upstream.destroy(); // the client has left; does nothing at the end of the response
    closed.abort();
  });
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
  try {
    await relay(appID, upstream, response, closed.signal);
  } catch (error) {
    response.write(failureEvent(error));
  }
  response.end();
}

/** Send Ollama's lines as events; store the reply before the last of them. */
async function relay(appID, upstream, response, closed) {
  let reply = "";
  for await (const line of lines(upstream)) {
    const parsed = parseLine(line);
    let event = `data: ${line}\n\n`;
    if (!parsed.model) {
      event = `event: error\ndata: ${line.replaceAll('\\"', "'")}\n\n`;
    } else {
      reply += parsed.message.content;
      if (parsed.done) event += await store(appID, reply);
    }
    if (!response.write(event)) await once(response, "drain", { signal: closed });
  }
}

/** Yield the lines of a response, independent of its chunks. */
async function* lines(upstream) {
  let rest = "";
  for await (const chunk of upstream.setEncoding("utf8")) {
    const found = (rest + chunk).split("\n");
    rest = found.pop();
    yield* found;
  }
  if (rest) yield rest;
}

/** Store the messages, and return the conversation with them. */
async function record(appID, messages) {
  const connection = await database.connect();
  try {
    for (const { role, content } of messages) {
      try {
        await connection.query({ ...INSERT, values: [role, content, appID] });
      } catch (error) {
        throw new Failure(406, error.message);
      }
    }
    const { rows } = await connection.query({ ...HISTORY, values: [appID] });
    return rows.map(({ username, message }) => ({ role: username, content: message }));
  } finally {
    connection.release();
  }
}

/** Store the reply; return an error event if that fails, else nothing. */
async function store(appID, reply) {
  try {
    await database.query({ ...INSERT, values: ["assistant", reply.replace(/\s+/g, " "), appID] });
    return "";
  } catch (error) {
    return failureEvent(error);
  }
}

async function ask(prompt) {
  const body = JSON.stringify(prompt);
  const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) };
  const request = http.request(chatUrl, { method: "POST", agent, headers });
  request.end(body);
  const [upstream] = await once(request, "response");
  request.on("error", () => {}); // a reset connection is an error of both; the reader of upstream handles it
  return upstream;
}

async function text(request) {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  return body;
}

function parsePrompt(body) {
  let prompt;
  try {
    prompt = JSON.parse(body);
  } catch (error) {
    throw new Failure(400, error.message);
  }
  if (typeof prompt?.appID !== "string" || typeof prompt.model !== "string" || !Array.isArray(prompt.messages)) {
    throw new Failure(422, "appID, model and messages are needed");
  }
  return prompt;
}

function parseLine(line) {
  try {
    return JSON.parse(line);
  } catch {
    return {};
  }
}

function failureEvent(error) {
  return `event: error\ndata: ${JSON.stringify({ error: error.message })}\n\n`;
}

const server = http.createServer(async (request, response) => {
  try {
    if (request.method !== "POST" || request.url !== "/llmchat") throw new Failure(404, "Not found");
    await llmchat(request, response);
  } catch (error) {
    if (!response.headersSent) response.writeHead(error.status ?? 500);
    response.end(error.message);
  }
});
server.keepAliveTimeout = 75_000;
// Connected before it listens, so that no request waits for a handshake.
const connections = await Promise.all(Array.from({ length: 10 }, () => database.connect()));
for (const connection of connections) connection.release();
server.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 4096 });
