// The conversations that this browser knows, each under a name of its own in storage, so that tabs do not undo each
// other's changes.

import { everyTab, thisTab } from "../../shared/storage.js";

const NAME = "conversation.";
const NEW = "new";
const TITLE_LIMIT = 60;
const PROMPT_LIMIT = 400;

/** Milliseconds in which a deletion can be undone. */
export const UNDO_TIME = 10_000;

/**
 * @typedef {object} Entry a conversation as the browser knows it; the server has its messages
 * @property {string} appID
 * @property {string} title
 * @property {string} prompt how it began, for the search
 * @property {number} used when something was last said in it, in ms since 1970; 0 if nothing was
 * @property {string} [model]
 * @property {import("../settings/model_options.js").Settings} [settings]
 * @property {string} [recorded] the system prompt that the server has
 * @property {number} [deleted] when it was deleted, in ms since 1970; it can be undone for a while
 * @property {boolean} [gone] that it can no longer be undone; the server has yet to forget it
 */

export class ConversationList extends EventTarget {
  constructor() {
    super();
    everyTab.onForeignChange((name) => {
      if (name === null || name.startsWith(NAME)) this.#tell();
    });
  }

  /** The entries that are there to be seen, the newest first. @returns {Entry[]} */
  get entries() {
    return this.#all().filter(({ gone }) => !gone).sort((one, other) => other.used - one.used);
  }

  /** The entries that were deleted, whether or not this can be undone. @returns {Entry[]} */
  get deleted() {
    return this.#all().filter(({ deleted }) => deleted);
  }

  /** @param {string} appID @returns {Entry | null} */
  find(appID) {
    return parse(everyTab.get(NAME + appID));
  }

  /** The entry of a conversation, or a fresh one that is in no list yet. @param {string} appID @returns {Entry} */
  open(appID) {
    const fresh = parse(thisTab.get(NEW));
    return this.find(appID) ?? (fresh?.appID === appID ? fresh : { appID, title: "", prompt: "", used: 0 });
  }

  /** This tab's conversation in which nothing was said yet, through reloads. @returns {Entry | null} */
  get unsaid() {
    const fresh = parse(thisTab.get(NEW));
    return fresh && !this.find(fresh.appID) ? fresh : null;
  }

  /**
   * Change an entry. One that is in the list is kept there; one in which nothing was said stays this tab's own.
   *
   * @param {string} appID
   * @param {Partial<Entry>} changes
   */
  change(appID, changes) {
    const entry = { ...this.open(appID), ...changes };
    if (entry.used) this.#keep(entry);
    else {
      thisTab.set(NEW, JSON.stringify(entry));
      this.#tell();
    }
  }

  /** Something is being said: the conversation is in the list from now on, on top. @param {string} appID @param {string} prompt */
  touch(appID, prompt) {
    const entry = this.open(appID);
    const title = entry.title || titleOf(prompt);
    const began = entry.prompt || prompt.slice(0, PROMPT_LIMIT);
    this.#keep({ ...entry, title, prompt: began, used: Date.now(), deleted: undefined, gone: undefined });
  }

  /** Delete, with the time to undo it. @param {string} appID */
  delete(appID) {
    const entry = this.find(appID);
    if (entry && !entry.deleted) this.#keep({ ...entry, deleted: Date.now() });
  }

  /** Take a deletion back. @param {string} appID @returns {boolean} whether it was not too late */
  undo(appID) {
    const entry = this.find(appID);
    if (!entry || entry.gone) return false;
    this.#keep({ ...entry, deleted: undefined });
    return true;
  }

  /** From now on the deletion stands. @param {string} appID */
  bury(appID) {
    const entry = this.find(appID);
    if (entry?.deleted && !entry.gone) this.#keep({ ...entry, prompt: "", settings: undefined, gone: true });
  }

  /** The server has forgotten it too. @param {string} appID */
  drop(appID) {
    if (!this.find(appID)?.gone) return; // something was said in it meanwhile
    everyTab.delete(NAME + appID);
    this.#tell();
  }

  #all() {
    return everyTab.names(NAME).map((name) => parse(everyTab.get(name))).filter((entry) => entry !== null);
  }

  /** @param {Entry} entry */
  #keep(entry) {
    everyTab.set(NAME + entry.appID, JSON.stringify(entry));
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {string | null} text @returns {Entry | null} */
function parse(text) {
  try {
    const entry = JSON.parse(text ?? "null");
    return typeof entry?.appID === "string" ? entry : null;
  } catch {
    return null; // somebody wrote into the storage by hand
  }
}

/** The first words of a prompt, whole if they can be. @param {string} prompt */
function titleOf(prompt) {
  const line = prompt.trim().replace(/\s+/g, " ");
  const letters = Array.from(line);
  if (letters.length <= TITLE_LIMIT) return line || "An image";
  const cut = letters.slice(0, TITLE_LIMIT).join("");
  const space = cut.lastIndexOf(" ");
  return `${space > TITLE_LIMIT / 2 ? cut.slice(0, space) : cut} …`;
}

const DRAFT = "draft.";

/** @param {string} appID @returns {string} */
export function recallDraft(appID) {
  return everyTab.get(DRAFT + appID) ?? thisTab.get(DRAFT + appID) ?? "";
}

/**
 * @param {string} appID
 * @param {string} text
 * @param {boolean} listed whether the conversation is in the list: without, no other tab could ever find the draft
 */
export function keepDraft(appID, text, listed) {
  if (!text) forgetDraft(appID);
  else (listed ? everyTab : thisTab).set(DRAFT + appID, text);
}

/** @param {string} appID */
export function forgetDraft(appID) {
  everyTab.delete(DRAFT + appID);
  thisTab.delete(DRAFT + appID);
}
