// A request that a person has filled in: as fetch takes it, and as a command for a shell.

/**
 * @typedef {object} Filled
 * @property {string} method
 * @property {string} path with its parameters in braces
 * @property {Array<{name: string, in: string, value: string}>} values those that are not empty
 * @property {string | null} body
 */

/** @param {Filled} filled @returns {string} path and query */
export function addressOf({ path, values }) {
  const query = new URLSearchParams();
  for (const one of values) {
    if (one.in === "path") path = path.replace(`{${one.name}}`, one.value.split("/").map(encodeURIComponent).join("/"));
    if (one.in === "query") query.set(one.name, one.value);
  }
  return query.size ? `${path}?${query}` : path;
}

/** @param {Filled} filled @returns {Object<string, string>} */
function headersOf({ values, body }) {
  const headers = Object.fromEntries(values.filter((one) => one.in === "header").map(({ name, value }) => [name, value]));
  return body === null ? headers : { "Content-Type": "application/json", ...headers };
}

/** @param {Filled} filled @param {AbortSignal} signal @returns {Promise<Response>} */
export function send(filled, signal) {
  const { method, body } = filled;
  return fetch(addressOf(filled), { method, headers: headersOf(filled), body, signal, cache: "no-store" });
}

/** The same request as a command. @param {Filled} filled @param {string} origin */
export function asCurl(filled, origin) {
  const { method, body } = filled;
  const words = [`curl ${method === "HEAD" ? "-I" : "-N -i"} ${quoted(origin + addressOf(filled))}`];
  if (method === "DELETE") words.push("-X DELETE");
  for (const [name, value] of Object.entries(headersOf(filled))) words.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body !== null) words.push(`-d ${quoted(body)}`);
  return words.join(" \\\n  ");
}

/** @param {string} text as one word of a POSIX shell */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

export class KnownValues extends EventTarget {
  /** @type {Map<string, string>} */
  #values = new Map();

  /** @param {string} name @param {string} value */
  put(name, value) {
    this.#values.set(name, value);
    this.dispatchEvent(new Event("change"));
  }

  /** @param {string} name @returns {string | undefined} */
  get(name) {
    return this.#values.get(name);
  }
}
