// Who is signed in on this browser, as far as its pages know. The server knows by a cookie that no script can read.

const RECORD = "chatterd.signed-in";
const SIGN_IN = "/sign-in";
const PUBLIC = [SIGN_IN, "/docs"]; // pages that show nothing of anybody
const EVERYBODY = "chatterd.";

/** @typedef {{name: string, tenant: string, until: number}} Person until: when it ends, in seconds since 1970 */

const person = signedIn();
let leaving = false;

/**
 * What the names of all things begin with that pages keep in this browser, so that nobody finds what another person
 * left there.
 */
export const PREFIX = prefixOf(person);

/** @returns {Person | null} */
export function signedIn() {
  try {
    const record = JSON.parse(localStorage.getItem(RECORD));
    return typeof record?.tenant === "string" ? record : null;
  } catch {
    return null; // storage is forbidden, or somebody wrote into it by hand
  }
}

/** @param {Person | null} whom */
export function keepSignedIn(whom) {
  try {
    if (whom) localStorage.setItem(RECORD, JSON.stringify(whom));
    else localStorage.removeItem(RECORD);
  } catch {
    // Storage is forbidden: the cookie alone does.
  }
}

/** @param {Person | null} whom @returns {boolean} */
export function isOver({ until }) {
  return until * 1000 <= Date.now();
}

/** Go and sign in, and then come back here. What was written is kept until then. */
export function leaveToSignIn() {
  if (leaving) return;
  leaving = true;
  const known = signedIn();
  if (known) keepSignedIn({ ...known, until: 0 }); // the next one here is shown nothing of theirs
  location.assign(signInAddress());
}

/** @returns {string} */
export function signInAddress() {
  return `${SIGN_IN}?${new URLSearchParams({ then: location.pathname + location.search + location.hash })}`;
}

/** Let nothing stay on the page when somebody else signs in or out in another tab. */
function watchOthers() {
  const check = () => {
    if (prefixOf(signedIn()) !== PREFIX || (person && !signedIn())) location.reload();
  };
  addEventListener("storage", ({ key }) => (key === RECORD || key === null) && check());
  addEventListener("pageshow", ({ persisted }) => persisted && check());
}

/** Forget everything that pages have kept for a person. @param {Person} whom */
export function forgetAllOf(whom) {
  const prefix = prefixOf(whom);
  for (const area of [() => localStorage, () => sessionStorage]) {
    for (const name of namesIn(area, prefix)) area().removeItem(name);
  }
}

/** What was written in this tab before anybody had signed in is that person's. @param {Person} whom */
export function takeOver(whom) {
  for (const name of namesIn(() => sessionStorage, EVERYBODY)) {
    const value = sessionStorage.getItem(name);
    sessionStorage.removeItem(name);
    sessionStorage.setItem(prefixOf(whom) + name.slice(EVERYBODY.length), value);
  }
}

/** @param {() => Storage} area @param {string} prefix @returns {string[]} */
function namesIn(area, prefix) {
  const isElse = (name) => name === RECORD || (prefix === EVERYBODY && name.startsWith(`${EVERYBODY}of.`));
  try {
    return Object.keys(area()).filter((name) => name.startsWith(prefix) && !isElse(name));
  } catch {
    return []; // storage is forbidden: nothing was kept
  }
}

/** @param {Person | null} whom @returns {string} the tenant that is empty is that of a server where nobody signs in */
function prefixOf(whom) {
  if (!whom?.tenant) return EVERYBODY;
  const name = encodeURIComponent(whom.tenant).replaceAll(".", "%2E"); // or a.b's would begin with all of a's
  return `${EVERYBODY}of.${name}.`;
}

if (!PUBLIC.includes(location.pathname.replace(/\/$/, ""))) {
  watchOthers();
  if (person && isOver(person)) {
    leaveToSignIn();
    await new Promise(() => {}); // the page shows nothing until it is left
  }
}
