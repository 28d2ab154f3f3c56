// chatterd's HTTP API as functions; what goes wrong is an ApiError whose message is a sentence to show.

import { leaveToSignIn } from "./session.js";

/**
 * @typedef {object} Message
 * @property {number} [seq] its number, once the server has it
 * @property {string} [id]
 * @property {string} role
 * @property {string} content
 * @property {string} [thinking]
 * @property {string[]} [images] in base64
 * @property {string} [status] how its reply ended, if not well
 * @property {string} [error] what went wrong with it
 *
 * @typedef {{messages: Message[], reply: {id: string} | null, before: number | null}} History
 * @typedef {object} Model
 * @property {string} name
 * @property {number} [size] on disk, in bytes
 * @property {string[]} [capabilities] what newer Ollamas say that it can do: "completion", "vision", "embedding", ...
 * @property {{parameter_size?: string, family?: string, families?: string[] | null, context_length?: number}} [details]
 */

/** Milliseconds for a request: the server answers at once, but a connection may have died without a sign. */
const PATIENCE = 15_000;
const BYTES_PER_MILLISECOND = 20; // of a slow upload
const UNREACHABLE = "The server does not answer. Check that chatterd is running and that you are online.";

export class ApiError extends Error {
  /**
   * @param {string} sentence
   * @param {number} status 0 if the server did not answer
   * @param {Headers} headers
   */
  constructor(sentence, status = 0, headers = new Headers()) {
    super(sentence);
    this.status = status;
    /** The reply that stands in the way (409). @type {string | null} */
    this.location = headers.get("Location");
    /** Seconds after which the server wants to be asked again (503). */
    this.retryAfter = Number.parseInt(headers.get("Retry-After") ?? "0", 10) || 0;
  }

  /** Whether the same request may go well later, without anybody doing anything. */
  get isPassing() {
    return this.status === 0 || this.status >= 500 || this.status === 429 || this.status === 408;
  }
}

/** @returns {Promise<Model[]>} */
export async function fetchModels() {
  const { models } = await readJSON(await request("/models"));
  return models ?? [];
}

/**
 * The newest messages, or those before the one with the number `before`.
 *
 * @param {string} appID
 * @param {number | null} before
 * @param {number | null} limit how many; null: so many as the server thinks right
 * @returns {Promise<History>}
 */
export async function fetchHistory(appID, before = null, limit = null) {
  const query = new URLSearchParams({ appID });
  if (limit !== null) query.set("limit", String(limit));
  if (before !== null) query.set("before", String(before));
  return readJSON(await request(`/llmchat?${query}`));
}

/**
 * Record messages and begin a reply to the conversation.
 *
 * @param {string} appID
 * @param {string} model
 * @param {{role: string, content: string, images?: string[]}[]} messages none asks for a reply to the conversation as it stands
 * @param {string} key the same for each attempt at the same send: only the first begins a reply
 * @param {Object<string, number>} options Ollama's, by their names; those left out are the model's own
 * @returns {Promise<string>} where the reply can be followed
 */
export async function beginReply(appID, model, messages, key, options = {}) {
  const body = JSON.stringify({ appID, model, messages, stream: true, ...(Object.keys(options).length > 0 && { options }) });
  const response = await request("/llmchat", {
    method: "POST",
    headers: { "Content-Type": "application/json", Prefer: "respond-async", "Idempotency-Key": key },
    body,
    signal: AbortSignal.timeout(PATIENCE + body.length / BYTES_PER_MILLISECOND),
  });
  return response.headers.get("Location") ?? (await readJSON(response)).location;
}

/** @param {string} location */
export async function stopReply(location) {
  await request(location, { method: "DELETE" });
}

/** Also while the page is being left. @param {string} appID */
export async function forgetConversation(appID) {
  await request(`/llmchat?${new URLSearchParams({ appID })}`, { method: "DELETE", keepalive: true });
}

/** Forget a message and all after it. @param {string} appID @param {number} seq the message's number */
export async function forgetFrom(appID, seq) {
  await request(`/llmchat?${new URLSearchParams({ appID, from: String(seq) })}`, { method: "DELETE" });
}

/** @param {string} token @returns {Promise<import("./session.js").Person>} who that is */
export async function signIn(token) {
  const body = JSON.stringify({ token });
  return readJSON(await request("/sign-in", { method: "POST", headers: { "Content-Type": "application/json" }, body }));
}

/** Who is asking, as the server sees it; without a name where nobody signs in. @returns {Promise<import("./session.js").Person>} */
export async function fetchAsker() {
  return readJSON(await request("/sign-in/asker"));
}

export async function signOut() {
  await request("/sign-in", { method: "DELETE" });
}

/** @param {string} location @returns {string} */
export function replyId(location) {
  return location.slice(location.lastIndexOf("/") + 1);
}

/** @param {string} id @returns {string} */
export function replyLocation(id) {
  return `/llmchat/${id}`;
}

/** @param {string} path @param {RequestInit} [options] */
async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), ...options });
  } catch {
    throw new ApiError(UNREACHABLE);
  }
  if (response.ok) return response;
  if (response.status === 401 && !path.startsWith("/sign-in")) leaveToSignIn();
  throw new ApiError(await sentenceIn(response), response.status, response.headers);
}

/** @param {Response} response whose connection may break in the middle */
async function readJSON(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError(UNREACHABLE);
  }
}

/** @param {Response} response */
async function sentenceIn(response) {
  try {
    const { error } = await response.json();
    if (typeof error === "string" && error) return error;
  } catch {
    // A proxy's own error page: its status is all there is to tell.
  }
  return `The server answered with status ${response.status}.`;
}
