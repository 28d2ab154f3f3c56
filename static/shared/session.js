// The signed-in session as the pages know it. The server uses a cookie that scripts cannot read (HttpOnly).

import { BASE_PATH, urlOfPath } from "./base_path.js";

const SIGN_IN = urlOfPath("/sign-in");
const PUBLIC_PAGES = [SIGN_IN, urlOfPath("/docs")]; // they show no user data
const ROOT_PREFIX = BASE_PATH === "/" ? "chatterd." : `chatterd${BASE_PATH}.`; // servers below other paths have the same storage
const SESSION_KEY = `${ROOT_PREFIX}session`;
const TENANT_PREFIX = `${ROOT_PREFIX}tenant.`;

/** @typedef {{name: string, tenant: string, until: number}} Session until: expiry time in seconds since 1970 */

const session = loadSession();
let redirecting = false;

/** Prefix of all storage keys. Each tenant has its own, so that users of one browser do not see each other's data. */
export const STORAGE_PREFIX = prefixOf(session);

/** @returns {Session | null} */
export function loadSession() {
  try {
    const stored = JSON.parse(localStorage.getItem(SESSION_KEY));
    return typeof stored?.tenant === "string" ? stored : null;
  } catch {
    return null; // storage is blocked, or the value was edited by hand
  }
}

/** @param {Session | null} value */
export function saveSession(value) {
  try {
    if (value) localStorage.setItem(SESSION_KEY, JSON.stringify(value));
    else localStorage.removeItem(SESSION_KEY);
  } catch {
    // Storage is blocked: the cookie suffices.
  }
}

/** @param {Session} value @returns {boolean} */
export function isExpired({ until }) {
  return until * 1000 <= Date.now();
}

/** Redirect to the sign-in page, which leads back here. Stored drafts and prompts are kept. */
export function redirectToSignIn() {
  if (redirecting) return;
  redirecting = true;
  const stored = loadSession();
  if (stored) saveSession({ ...stored, until: 0 }); // pages opened before the next sign-in show none of its data
  location.assign(signInUrl());
}

/** @returns {string} */
export function signInUrl() {
  return `${SIGN_IN}?${new URLSearchParams({ then: location.pathname + location.search + location.hash })}`;
}

/** Reload the page when the session changes in another tab. */
function reloadOnSessionChange() {
  const check = () => {
    if (prefixOf(loadSession()) !== STORAGE_PREFIX || (session && !loadSession())) location.reload();
  };
  addEventListener("storage", ({ key }) => (key === SESSION_KEY || key === null) && check());
  addEventListener("pageshow", ({ persisted }) => persisted && check());
}

/** Delete all data that the pages stored for a session's tenant. @param {Session} value */
export function clearStoredData(value) {
  const prefix = prefixOf(value);
  for (const getStorage of [() => localStorage, () => sessionStorage]) {
    for (const key of keysIn(getStorage, prefix)) getStorage().removeItem(key);
  }
}

/** Move this tab's data from before the first sign-in to the session's tenant. @param {Session} value */
export function claimAnonymousData(value) {
  for (const key of keysIn(() => sessionStorage, ROOT_PREFIX)) {
    const data = sessionStorage.getItem(key);
    sessionStorage.removeItem(key);
    sessionStorage.setItem(prefixOf(value) + key.slice(ROOT_PREFIX.length), data);
  }
}

/** @param {() => Storage} getStorage @param {string} prefix @returns {string[]} */
function keysIn(getStorage, prefix) {
  const isOther = (key) => key === SESSION_KEY || (prefix === ROOT_PREFIX && key.startsWith(TENANT_PREFIX));
  try {
    return Object.keys(getStorage()).filter((key) => key.startsWith(prefix) && !isOther(key));
  } catch {
    return []; // storage is blocked: nothing was stored
  }
}

/** @param {Session | null} value @returns {string} the tenant is empty on a server without authentication */
function prefixOf(value) {
  if (!value?.tenant) return ROOT_PREFIX;
  const name = encodeURIComponent(value.tenant).replaceAll(".", "%2E"); // else the prefix of "a" would match "a.b" too
  return `${TENANT_PREFIX}${name}.`;
}

if (!PUBLIC_PAGES.includes(location.pathname.replace(/\/$/, ""))) {
  reloadOnSessionChange();
  if (session && isExpired(session)) {
    redirectToSignIn();
    await new Promise(() => {}); // run no other module until the redirect
  }
}
