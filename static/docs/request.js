// Requests of the API page: sends one with fetch, formats one as a curl command, and shares values between forms.

import { urlOfPath } from "../shared/base_path.js";

/**
 * @typedef {object} FormRequest
 * @property {string} method
 * @property {string} path with parameters in braces
 * @property {Array<{name: string, in: string, value: string}>} values the parameters that are set
 * @property {string | null} body
 */

/** @param {FormRequest} request @returns {string} path and query */
export function urlOf({ path, values }) {
  const query = new URLSearchParams();
  for (const one of values) {
    if (one.in === "path") path = path.replace(`{${one.name}}`, one.value.split("/").map(encodeURIComponent).join("/"));
    if (one.in === "query") query.set(one.name, one.value);
  }
  return urlOfPath(query.size ? `${path}?${query}` : path);
}

/** @param {FormRequest} request @returns {Object<string, string>} */
function headersOf({ values, body }) {
  const headers = Object.fromEntries(values.filter((one) => one.in === "header").map(({ name, value }) => [name, value]));
  return body === null ? headers : { "Content-Type": "application/json", ...headers };
}

/** @param {FormRequest} request @param {AbortSignal} signal @returns {Promise<Response>} */
export function send(request, signal) {
  const { method, body } = request;
  return fetch(urlOf(request), { method, headers: headersOf(request), body, signal, cache: "no-store" });
}

/** Format a request as a shell command. @param {FormRequest} request @param {string} origin */
export function toCurl(request, origin) {
  const { method, body } = request;
  const parts = [`curl ${method === "HEAD" ? "-I" : "-N -i"} ${quote(origin + urlOf(request))}`];
  if (method === "DELETE") parts.push("-X DELETE");
  for (const [name, value] of Object.entries(headersOf(request))) parts.push(`-H ${quote(`${name}: ${value}`)}`);
  if (body !== null) parts.push(`-d ${quote(body)}`);
  return parts.join(" \\\n  ");
}

/** Quote an argument for a POSIX shell. @param {string} text */
function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Values from responses that other operations can use: a reply's id, an installed model. */
export class SharedValues extends EventTarget {
  /** @type {Map<string, string>} */
  #values = new Map();

  /** @param {string} name @param {string} value */
  set(name, value) {
    this.#values.set(name, value);
    this.dispatchEvent(new Event("change"));
  }

  /** @param {string} name @returns {string | undefined} */
  get(name) {
    return this.#values.get(name);
  }
}
