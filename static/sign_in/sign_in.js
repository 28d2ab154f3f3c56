// Entry point of the sign-in page: exchanges a token for a cookie, redirects back, and signs out.

import { fetchMe, signIn, signOut } from "../shared/api.js";
import { BASE_PATH } from "../shared/base_path.js";
import { claimAnonymousData, clearStoredData, isExpired, loadSession, saveSession } from "../shared/session.js";

const find = (id) => document.getElementById(id);
const form = find("sign-in");
const token = find("token");
const then = new URLSearchParams(location.search).get("then");
const session = loadSession();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
find("sign-out").addEventListener("click", () => leave());
find("clear-browser").addEventListener("click", () => leave(() => clearStoredData(session)));

if (session && !isExpired(session) && then === null) {
  find("name").textContent = session.name;
  find("signed-in").hidden = false;
} else {
  showForm();
  redirectIfUnauthenticated();
}

function showForm() {
  find("signed-in").hidden = true;
  form.hidden = false;
  token.focus();
}

/** Redirect if the server does not require authentication (any more). */
async function redirectIfUnauthenticated() {
  const me = await fetchMe().catch(() => null); // usually 401
  if (me?.name !== "") return;
  saveSession(null);
  location.replace(destination());
}

async function submit() {
  const button = form.querySelector("button");
  button.disabled = true;
  find("sign-in-error").textContent = "";
  try {
    const newSession = await signIn(token.value.trim());
    token.value = "";
    if (!session && newSession.tenant) claimAnonymousData(newSession);
    saveSession(newSession);
    location.replace(destination());
  } catch (error) {
    find("sign-in-error").textContent = error.message;
    token.select();
  } finally {
    button.disabled = false;
  }
}

/** Sign out. @param {() => void} [cleanUp] */
async function leave(cleanUp) {
  try {
    await signOut();
    cleanUp?.();
    saveSession(null);
    showForm();
  } catch (error) {
    find("sign-out-error").textContent = `You are still signed in. ${error.message}`;
  }
}

/** The page to redirect to: only one of this server, whatever the URL says. @returns {string} */
function destination() {
  try {
    const url = new URL(then ?? BASE_PATH, location.origin);
    return url.origin === location.origin ? url.href : BASE_PATH;
  } catch {
    return BASE_PATH;
  }
}
