// The path below which this server is reached: "/", or another one such as "/chat/" behind a proxy.

/** Ends with a slash. Derived from this file's own URL, which the pages name relative to theirs. */
export const BASE_PATH = new URL("../../", import.meta.url).pathname;

/** @param {string} path of the API, with a slash at its beginning @returns {string} */
export function urlOfPath(path) {
  return BASE_PATH + path.slice(1);
}
