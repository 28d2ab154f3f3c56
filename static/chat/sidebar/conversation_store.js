// The browser's list of conversations and drafts. Each has its own storage key, so that tabs do not overwrite each
// other's changes.

import { localStore, sessionStore } from "../../shared/storage.js";

const ENTRY_PREFIX = "conversation.";
const EMPTY_ENTRY = "new";
const DRAFT_PREFIX = "draft.";
const MAX_TITLE = 60;
const MAX_SEARCH_TEXT = 400;

/** Milliseconds in which a deletion can be undone. */
export const UNDO_TIMEOUT = 10_000;

/**
 * @typedef {object} Entry metadata of a conversation; its messages are on the server
 * @property {string} appID
 * @property {string} title
 * @property {string} firstPrompt its beginning, for the search
 * @property {number} lastUsedAt time of the last prompt, in ms since 1970; 0 if there is none
 * @property {string} [model]
 * @property {import("../settings/model_options.js").Settings} [settings]
 * @property {string} [recordedSystemPrompt] the system prompt that the server has stored
 * @property {number} [deletedAt] in ms since 1970; the deletion can be undone for a while
 * @property {boolean} [isPurging] the deletion is final, and the server has not confirmed it yet
 */

export class ConversationStore extends EventTarget {
  constructor() {
    super();
    localStore.onExternalChange((key) => {
      if (key === null || key.startsWith(ENTRY_PREFIX)) this.#notify();
    });
  }

  /** The visible entries, newest first. @returns {Entry[]} */
  get entries() {
    return this.#all().filter(({ isPurging }) => !isPurging).sort((one, other) => other.lastUsedAt - one.lastUsedAt);
  }

  /** The deleted entries, whether or not the deletion can be undone. @returns {Entry[]} */
  get deleted() {
    return this.#all().filter(({ deletedAt }) => deletedAt);
  }

  /** @param {string} appID @returns {Entry | null} */
  find(appID) {
    return parse(localStore.get(ENTRY_PREFIX + appID));
  }

  /** Find an entry, or create one without listing it. @param {string} appID @returns {Entry} */
  getOrCreate(appID) {
    const empty = parse(sessionStore.get(EMPTY_ENTRY));
    return this.find(appID) ?? (empty?.appID === appID ? empty : { appID, title: "", firstPrompt: "", lastUsedAt: 0 });
  }

  /** This tab's conversation without messages. @returns {Entry | null} */
  get emptyEntry() {
    const empty = parse(sessionStore.get(EMPTY_ENTRY));
    return empty && !this.find(empty.appID) ? empty : null;
  }

  /**
   * Change an entry. An entry without messages is stored for this tab only.
   *
   * @param {string} appID
   * @param {Partial<Entry>} changes
   */
  update(appID, changes) {
    const entry = { ...this.getOrCreate(appID), ...changes };
    if (entry.lastUsedAt) this.#save(entry);
    else {
      sessionStore.set(EMPTY_ENTRY, JSON.stringify(entry));
      this.#notify();
    }
  }

  /** List an entry as the newest, and restore it if it was deleted. @param {string} appID @param {string} prompt */
  touch(appID, prompt) {
    const entry = this.getOrCreate(appID);
    const title = entry.title || titleOf(prompt);
    const firstPrompt = entry.firstPrompt || prompt.slice(0, MAX_SEARCH_TEXT);
    const restored = { deletedAt: undefined, isPurging: undefined };
    this.#save({ ...entry, title, firstPrompt, lastUsedAt: Date.now(), ...restored });
  }

  /** Delete an entry so that it can be undone. @param {string} appID */
  delete(appID) {
    const entry = this.find(appID);
    if (entry && !entry.deletedAt) this.#save({ ...entry, deletedAt: Date.now() });
  }

  /** @param {string} appID @returns {boolean} false: it is too late */
  undoDelete(appID) {
    const entry = this.find(appID);
    if (!entry || entry.isPurging) return false;
    this.#save({ ...entry, deletedAt: undefined });
    return true;
  }

  /** Make a deletion final. @param {string} appID */
  commitDelete(appID) {
    const entry = this.find(appID);
    if (entry?.deletedAt && !entry.isPurging) {
      this.#save({ ...entry, firstPrompt: "", settings: undefined, isPurging: true });
    }
  }

  /** Remove an entry after the server has deleted the conversation. @param {string} appID */
  remove(appID) {
    if (!this.find(appID)?.isPurging) return; // it has been used again since
    localStore.delete(ENTRY_PREFIX + appID);
    this.#notify();
  }

  #all() {
    return localStore.keys(ENTRY_PREFIX).map((key) => parse(localStore.get(key))).filter((entry) => entry !== null);
  }

  /** @param {Entry} entry */
  #save(entry) {
    localStore.set(ENTRY_PREFIX + entry.appID, JSON.stringify(entry));
    this.#notify();
  }

  #notify() {
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {string | null} text @returns {Entry | null} */
function parse(text) {
  try {
    const entry = JSON.parse(text ?? "null");
    return typeof entry?.appID === "string" ? entry : null;
  } catch {
    return null; // the value was edited by hand
  }
}

/** Shorten a prompt to a title, at a word boundary if possible. @param {string} prompt */
function titleOf(prompt) {
  const line = prompt.trim().replace(/\s+/g, " ");
  const characters = Array.from(line);
  if (characters.length <= MAX_TITLE) return line || "Image";
  const cut = characters.slice(0, MAX_TITLE).join("");
  const space = cut.lastIndexOf(" ");
  return `${space > MAX_TITLE / 2 ? cut.slice(0, space) : cut}…`;
}

/** @param {string} appID @returns {string} */
export function loadDraft(appID) {
  return localStore.get(DRAFT_PREFIX + appID) ?? sessionStore.get(DRAFT_PREFIX + appID) ?? "";
}

/**
 * @param {string} appID
 * @param {string} text
 * @param {boolean} isListed whether the conversation is in the list: otherwise only this tab can open it
 */
export function saveDraft(appID, text, isListed) {
  if (!text) deleteDraft(appID);
  else (isListed ? localStore : sessionStore).set(DRAFT_PREFIX + appID, text);
}

/** @param {string} appID */
export function deleteDraft(appID) {
  localStore.delete(DRAFT_PREFIX + appID);
  sessionStore.delete(DRAFT_PREFIX + appID);
}
