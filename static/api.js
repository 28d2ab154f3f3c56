// chatterd's HTTP API as functions; what goes wrong is an ApiError whose message is a sentence to show.

/**
 * @typedef {{id: string, role: string, content: string, thinking?: string, images?: string[]}} Message
 * @typedef {{messages: Message[], reply: {id: string} | null, before: number | null}} History
 * @typedef {object} Model
 * @property {string} name
 * @property {number} [size] on disk, in bytes
 * @property {string[]} [capabilities] what newer Ollamas say that it can do: "completion", "vision", "embedding", ...
 * @property {{parameter_size?: string, family?: string, families?: string[] | null, context_length?: number}} [details]
 */

export class ApiError extends Error {
  /**
   * @param {string} sentence
   * @param {number} status 0 if the server did not answer
   * @param {string | null} location the reply that stands in the way (409)
   */
  constructor(sentence, status = 0, location = null) {
    super(sentence);
    this.status = status;
    this.location = location;
  }
}

/** @returns {Promise<Model[]>} */
export async function fetchModels() {
  const { models } = await (await request("/models")).json();
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
  return (await request(`/llmchat?${query}`)).json();
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
  const response = await request("/llmchat", {
    method: "POST",
    headers: { "Content-Type": "application/json", Prefer: "respond-async", "Idempotency-Key": key },
    body: JSON.stringify({ appID, model, messages, stream: true, ...(Object.keys(options).length > 0 && { options }) }),
  });
  return response.headers.get("Location") ?? (await response.json()).location;
}

/** @param {string} location */
export async function stopReply(location) {
  await request(location, { method: "DELETE" });
}

/** Also while the page is being left. @param {string} appID */
export async function forgetConversation(appID) {
  await request(`/llmchat?${new URLSearchParams({ appID })}`, { method: "DELETE", keepalive: true });
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
    response = await fetch(path, options);
  } catch {
    throw new ApiError("The server does not answer. Check that chatterd is running and that you are online.");
  }
  if (response.ok) return response;
  throw new ApiError(await sentenceIn(response), response.status, response.headers.get("Location"));
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
