// localStorage and sessionStorage under the signed-in tenant's prefix, with an in-memory fallback for failed writes.

import { STORAGE_PREFIX } from "./session.js";

class Store {
  #getStorage;
  #unsaved = new Map(); // values that the browser did not store; they last as long as the page
  #onWriteError = () => {};

  /** @param {() => Storage} getStorage called each time: the property itself throws where storage is blocked */
  constructor(getStorage) {
    this.#getStorage = getStorage;
  }

  /** @param {string} key @returns {string | null} */
  get(key) {
    if (this.#unsaved.has(key)) return this.#unsaved.get(key);
    try {
      return this.#getStorage().getItem(STORAGE_PREFIX + key);
    } catch {
      return null;
    }
  }

  /** @param {string} key @param {string} value */
  set(key, value) {
    try {
      this.#getStorage().setItem(STORAGE_PREFIX + key, value);
      this.#unsaved.delete(key);
    } catch (error) {
      this.#unsaved.set(key, value);
      this.#onWriteError(error?.name === "QuotaExceededError" && this.keys().length > 0);
    }
  }

  /** @param {string} key */
  delete(key) {
    this.#unsaved.delete(key);
    try {
      this.#getStorage().removeItem(STORAGE_PREFIX + key);
    } catch {
      // Storage is blocked: nothing was stored.
    }
  }

  /** @param {string} [prefix] @returns {string[]} the keys with this prefix */
  keys(prefix = "") {
    let stored = [];
    try {
      stored = Object.keys(this.#getStorage());
    } catch {
      // Storage is blocked: only the values in memory exist.
    }
    const keys = stored.filter((key) => key.startsWith(STORAGE_PREFIX)).map((key) => key.slice(STORAGE_PREFIX.length));
    return [...new Set([...keys, ...this.#unsaved.keys()])].filter((key) => key.startsWith(prefix));
  }

  /** Set the handler of failed writes. @param {(isFull: boolean) => void} listener `isFull`: the quota is exceeded */
  onWriteError(listener) {
    this.#onWriteError = listener;
  }

  /** Listen for changes made by other tabs. @param {(key: string | null) => void} listener null: all keys changed */
  onExternalChange(listener) {
    addEventListener("storage", ({ key, storageArea }) => {
      if (key !== null && !key.startsWith(STORAGE_PREFIX)) return;
      if (storageArea === this.#getStorage()) listener(key && key.slice(STORAGE_PREFIX.length));
    });
  }
}

/** Persistent, and shared by all tabs. */
export const localStore = new Store(() => localStorage);

/** Kept for this tab only, also after a reload. */
export const sessionStore = new Store(() => sessionStorage);
