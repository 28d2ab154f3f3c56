// Client for chatterd's HTTP API. Failures throw an ApiError whose message can be shown to the user.

import { urlOfPath } from "./base_path.js";
import { redirectToSignIn } from "./session.js";

/**
 * @typedef {object} Message
 * @property {number} [seq] its sequence number, once the server has stored it
 * @property {string} [id]
 * @property {string} role
 * @property {string} content
 * @property {string} [thinking]
 * @property {string[]} [images] in base64
 * @property {string} [status] the outcome of its reply, unless it completed
 * @property {string} [error] why its reply failed
 * @property {boolean} [left_out] it alone exceeds the model's window, and is not sent
 *
 * @typedef {object} Context what the model was sent for a reply
 * @property {string} model
 * @property {number | null} from `seq` of the first message that was sent; null: none was left out before it
 * @property {number} messages number of messages that were sent
 * @property {number} left_out number of earlier messages that were not
 * @property {number} [images_left_out] number of messages that were sent without their images
 * @property {number} [system_left_out] number of system messages that were not sent
 * @property {true} [summary] a summary of what was left out was sent; it counts as a message
 * @property {"length"} [done_reason] the reply has ended at a limit, its own or that of the window
 * @property {number} tokens
 * @property {boolean} estimated whether the number of tokens is an estimate
 * @property {number | null} window in tokens; null: unknown
 *
 * @typedef {object} History
 * @property {Message[]} messages
 * @property {{id: string, context?: Context | null} | null} reply the one being generated
 * @property {Context | null} [context] of the newest reply
 * @property {Summary | null} [summary] of what the model is not sent any more
 * @property {number | null} before
 *
 * @typedef {object} Summary
 * @property {string} text
 * @property {number} until `seq` of the last message that it summarises
 * @property {boolean} edited
 *
 * @typedef {object} ModelWindow
 * @property {number | null} window in tokens, of a request without `num_ctx`
 * @property {number | null} trained tokens that the model was trained for
 * @property {number | null} loaded_window tokens of the window that the model is loaded with
 * @property {number | null} memory_bytes of the loaded model
 * @property {number | null} bytes_per_token of the window
 *
 * @typedef {object} Model
 * @property {string} name
 * @property {number} [size] on disk, in bytes
 * @property {boolean} [stand_in] it replies only until an Ollama answers
 * @property {string[]} [capabilities] as newer versions of Ollama report them: "completion", "vision", "embedding", ...
 * @property {{parameter_size?: string, family?: string, families?: string[] | null, context_length?: number}} [details]
 */

/** Milliseconds. The server responds at once, but a connection may be dead without notice. */
const REQUEST_TIMEOUT = 15_000;
const HISTORY_LIMIT = 50;
const UPLOAD_BYTES_PER_MILLISECOND = 20; // for a slow connection
const UNREACHABLE = "Cannot reach the server. Check that chatterd is running and that you are online.";

export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status 0 if there was no response
   * @param {Headers} headers
   */
  constructor(message, status = 0, headers = new Headers()) {
    super(message);
    this.status = status;
    const location = headers.get("Location");
    /** The running reply that caused the conflict (409). @type {string | null} */
    this.location = location && replyLocation(replyId(location));
    /** Seconds to wait before a retry (429, 503). */
    this.retryAfter = Number.parseInt(headers.get("Retry-After") ?? "0", 10) || 0;
  }

  /** Whether the same request may succeed later. */
  get isTransient() {
    return this.status === 0 || this.status >= 500 || this.status === 429 || this.status === 408;
  }
}

/** @returns {Promise<Model[]>} */
export async function fetchModels() {
  const { models } = await readJSON(await request("/models"));
  return models ?? [];
}

/** What is known of a model's window. @param {string} model @returns {Promise<ModelWindow>} */
export async function fetchWindow(model) {
  return readJSON(await request(`/window?${new URLSearchParams({ model })}`));
}

/**
 * Fetch the newest messages, or those with a `seq` below `before`.
 *
 * A page of the server is limited in bytes, too: if it has fewer messages, the pages before it are fetched.
 *
 * @param {string} appID
 * @param {number | null} before
 * @param {number} limit of messages
 * @returns {Promise<History>}
 */
export async function fetchHistory(appID, before = null, limit = HISTORY_LIMIT) {
  const history = await fetchPage(appID, before, limit);
  while (history.before !== null && history.messages.length < limit) {
    const older = await fetchPage(appID, history.before, limit - history.messages.length);
    history.messages.unshift(...older.messages);
    history.before = older.before;
  }
  return history;
}

async function fetchPage(appID, before, limit) {
  const query = new URLSearchParams({ appID, limit: String(limit) });
  if (before !== null) query.set("before", String(before));
  const history = await readJSON(await request(`/llmchat?${query}`));
  return { ...history, messages: history.messages.map(withKnownTypes) };
}

/** Leave out the fields of a message that are not of the types above: a client may have sent anything. */
function withKnownTypes({ images, thinking, ...message }) {
  return {
    ...message,
    ...(typeof thinking === "string" && { thinking }),
    ...(Array.isArray(images) && { images: images.filter((image) => typeof image === "string") }),
  };
}

/**
 * Record messages and start a reply to the conversation.
 *
 * @param {string} appID
 * @param {string} model
 * @param {{role: string, content: string, images?: string[]}[]} messages may be empty: the model then replies to the conversation as it is
 * @param {string} key the Idempotency-Key, the same for all attempts: only one of them starts a reply
 * @param {Object<string, number>} options Ollama's options by name; others keep the model's defaults
 * @param {"cut" | "stop"} contextFull what happens when the conversation has outgrown the model's window
 * @returns {Promise<string>} the path of the reply's stream
 */
export async function startReply(appID, model, messages, key, options = {}, contextFull = "cut") {
  const optional = {
    ...(Object.keys(options).length > 0 && { options }),
    ...(contextFull !== "cut" && { context_full: contextFull }),
  };
  const body = JSON.stringify({ appID, model, messages, stream: true, ...optional });
  const response = await request("/llmchat", {
    method: "POST",
    headers: { "Content-Type": "application/json", Prefer: "respond-async", "Idempotency-Key": key },
    body,
    signal: AbortSignal.timeout(REQUEST_TIMEOUT + body.length / UPLOAD_BYTES_PER_MILLISECOND),
  });
  const location = response.headers.get("Location") ?? (await readJSON(response)).location;
  return replyLocation(replyId(location)); // a proxy may have removed the base path, of which the server need not know
}

/** @param {string} location */
export async function stopReply(location) {
  await request(`/llmchat/${replyId(location)}`, { method: "DELETE" });
}

/** Works while the page is being unloaded, too. @param {string} appID */
export async function deleteConversation(appID) {
  await request(`/llmchat?${new URLSearchParams({ appID })}`, { method: "DELETE", keepalive: true });
}

/** Delete a message and all later ones. @param {string} appID @param {number} seq */
export async function deleteMessagesFrom(appID, seq) {
  await request(`/llmchat?${new URLSearchParams({ appID, from: String(seq) })}`, { method: "DELETE" });
}

/** Replace the text of a summary. @param {string} appID @param {number} until that of the summary @param {string} text */
export async function editSummary(appID, until, text) {
  const query = new URLSearchParams({ appID, until: String(until) });
  const headers = { "Content-Type": "application/json" };
  await request(`/summary?${query}`, { method: "PUT", headers, body: JSON.stringify({ text }) });
}

/** @param {string} token @returns {Promise<import("./session.js").Session>} */
export async function signIn(token) {
  const body = JSON.stringify({ token });
  return readJSON(await request("/sign-in", { method: "POST", headers: { "Content-Type": "application/json" }, body }));
}

/** The authenticated user; the name is empty on a server without authentication. @returns {Promise<import("./session.js").Session>} */
export async function fetchMe() {
  return readJSON(await request("/sign-in/me"));
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
  return urlOfPath(`/llmchat/${id}`);
}

/** @param {string} path of the API @param {RequestInit} [options] */
async function request(path, options) {
  let response;
  try {
    response = await fetch(urlOfPath(path), { signal: AbortSignal.timeout(REQUEST_TIMEOUT), ...options });
  } catch {
    throw new ApiError(UNREACHABLE);
  }
  if (response.ok) return response;
  if (response.status === 401 && !path.startsWith("/sign-in")) redirectToSignIn();
  throw new ApiError(await readErrorMessage(response), response.status, response.headers);
}

/** @param {Response} response its connection may break before the end */
async function readJSON(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError(UNREACHABLE);
  }
}

/** @param {Response} response */
async function readErrorMessage(response) {
  try {
    const { error } = await response.json();
    if (typeof error === "string" && error) return error;
  } catch {
    // An error page of a proxy: only the status is known.
  }
  return `The server responded with status ${response.status}.`;
}
