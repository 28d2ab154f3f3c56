// Prompts that the server has not accepted yet, kept in localStorage until it has.

import { STORAGE_PREFIX } from "../../shared/session.js";

const PREFIX = `${STORAGE_PREFIX}outbox.`;

/**
 * @typedef {object} Unsent
 * @property {string} key the Idempotency-Key: the server accepts it once, however often it is sent
 * @property {string} appID
 * @property {string} model
 * @property {{role: string, content: string}[]} messages empty: a reply to the conversation as it is
 * @property {object} options of the model
 * @property {"cut" | "stop"} [contextFull] what happens when the conversation has outgrown the model's window
 * @property {number | null} replaceFrom `seq` of the first message to replace
 * @property {number} lastSeq `seq` of the newest message when the prompt was written
 * @property {number} createdAt in ms since 1970
 */

/** Prompts that the browser cannot store (storage blocked or full). They last as long as the page. @type {Map<string, Unsent>} */
const inMemory = new Map();

/** @param {Unsent} unsent */
export function saveToOutbox(unsent) {
  try {
    localStorage.setItem(PREFIX + unsent.key, JSON.stringify(unsent));
    inMemory.delete(unsent.key);
  } catch {
    inMemory.set(unsent.key, unsent);
  }
}

/** @param {string} key */
export function removeFromOutbox(key) {
  inMemory.delete(key);
  try {
    localStorage.removeItem(PREFIX + key);
  } catch {
    // Storage is blocked: nothing was stored.
  }
}

/** @param {string} key @returns {Unsent | null} null: it was sent or cancelled, perhaps in another tab */
export function findInOutbox(key) {
  if (inMemory.has(key)) return inMemory.get(key);
  try {
    return JSON.parse(localStorage.getItem(PREFIX + key));
  } catch {
    return null;
  }
}

/** All unsent prompts, oldest first. @returns {Unsent[]} */
export function listOutbox() {
  const keys = new Set(inMemory.keys());
  try {
    for (const name of Object.keys(localStorage)) if (name.startsWith(PREFIX)) keys.add(name.slice(PREFIX.length));
  } catch {
    // Storage is blocked: only the prompts in memory exist.
  }
  return [...keys].map(findInOutbox).filter(Boolean).sort((one, other) => one.createdAt - other.createdAt);
}
