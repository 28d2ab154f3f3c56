// The sign-in page: a token for a cookie, back to the page that sent its reader here, and out again.

import { fetchAsker, signIn, signOut } from "../shared/api.js";
import { forgetAllOf, isOver, keepSignedIn, signedIn, takeOver } from "../shared/session.js";

const find = (id) => document.getElementById(id);
const form = find("sign-in");
const token = find("token");
const then = new URLSearchParams(location.search).get("then");
const person = signedIn();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  enter();
});
find("sign-out").addEventListener("click", () => leave());
find("forget").addEventListener("click", () => leave(() => forgetAllOf(person)));

if (person && !isOver(person) && then === null) {
  find("name").textContent = person.name;
  find("signed-in").hidden = false;
} else {
  showForm();
  leaveIfNobodySignsIn();
}

function showForm() {
  find("signed-in").hidden = true;
  form.hidden = false;
  token.focus();
}

/** The server may have been told meanwhile to let everybody in. */
async function leaveIfNobodySignsIn() {
  const asker = await fetchAsker().catch(() => null); // as a rule nobody is signed in
  if (asker?.name !== "") return;
  keepSignedIn(null);
  location.replace(destination());
}

async function enter() {
  const button = form.querySelector("button");
  button.disabled = true;
  find("problem").textContent = "";
  try {
    const whom = await signIn(token.value.trim());
    token.value = "";
    if (!person && whom.tenant) takeOver(whom);
    keepSignedIn(whom);
    location.replace(destination());
  } catch (error) {
    find("problem").textContent = error.message;
    token.select();
  } finally {
    button.disabled = false;
  }
}

/** @param {() => void} [also] */
async function leave(also) {
  try {
    await signOut();
    also?.();
    keepSignedIn(null);
    showForm();
  } catch (error) {
    find("out-problem").textContent = `You are still signed in. ${error.message}`;
  }
}

/** Where to go then: a page of this server, whatever the address says. @returns {string} */
function destination() {
  try {
    const wanted = new URL(then ?? "/", location.origin);
    return wanted.origin === location.origin ? wanted.href : "/";
  } catch {
    return "/";
  }
}
