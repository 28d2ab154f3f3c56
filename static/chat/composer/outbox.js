// Prompts that the server has not taken yet, kept in the browser until it has.

import { PREFIX as WHOSE } from "../../shared/session.js";

const PREFIX = `${WHOSE}outbox.`;

/**
 * @typedef {object} Unsent
 * @property {string} key its Idempotency-Key: however often it is sent, it is taken once
 * @property {string} appID
 * @property {string} model
 * @property {{role: string, content: string}[]} messages none asks for a reply to the conversation as it stands
 * @property {object} options for the model
 * @property {number | null} from the number of the message that it takes the place of, with all after it
 * @property {number} upTo the number of the newest message when it was written
 * @property {number} at when it was written, in milliseconds since 1970
 */

/** What the browser does not keep (storage forbidden or full): it lasts as long as the page. @type {Map<string, Unsent>} */
const unkept = new Map();

/** @param {Unsent} unsent */
export function keep(unsent) {
  try {
    localStorage.setItem(PREFIX + unsent.key, JSON.stringify(unsent));
    unkept.delete(unsent.key);
  } catch {
    unkept.set(unsent.key, unsent);
  }
}

/** @param {string} key */
export function drop(key) {
  unkept.delete(key);
  try {
    localStorage.removeItem(PREFIX + key);
  } catch {
    // Storage is forbidden: there was nothing.
  }
}

/** @param {string} key @returns {Unsent | null} null: it was sent, or taken back, perhaps in another tab */
export function find(key) {
  if (unkept.has(key)) return unkept.get(key);
  try {
    return JSON.parse(localStorage.getItem(PREFIX + key));
  } catch {
    return null;
  }
}

/** All that is unsent, oldest first. @returns {Unsent[]} */
export function allUnsent() {
  const keys = new Set(unkept.keys());
  try {
    for (const name of Object.keys(localStorage)) if (name.startsWith(PREFIX)) keys.add(name.slice(PREFIX.length));
  } catch {
    // Storage is forbidden: what the page remembers is all.
  }
  return [...keys].map(find).filter(Boolean).sort((one, other) => one.at - other.at);
}
