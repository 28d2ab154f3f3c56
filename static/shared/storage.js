// What the browser keeps between visits, and a stand-in for where it keeps nothing.

import { PREFIX } from "./session.js";

/** Names and texts that the browser keeps; what it refuses to keep lasts as long as the page. */
class Store {
  #area;
  #unkept = new Map();
  #onRefusal = () => {};

  /** @param {() => Storage} area asked each time, for asking throws where storage is forbidden */
  constructor(area) {
    this.#area = area;
  }

  /** @param {string} name @returns {string | null} */
  get(name) {
    if (this.#unkept.has(name)) return this.#unkept.get(name);
    try {
      return this.#area().getItem(PREFIX + name);
    } catch {
      return null;
    }
  }

  /** @param {string} name @param {string} value */
  set(name, value) {
    try {
      this.#area().setItem(PREFIX + name, value);
      this.#unkept.delete(name);
    } catch (error) {
      this.#unkept.set(name, value);
      this.#onRefusal(error?.name === "QuotaExceededError" && this.names().length > 0);
    }
  }

  /** @param {string} name */
  delete(name) {
    this.#unkept.delete(name);
    try {
      this.#area().removeItem(PREFIX + name);
    } catch {
      // Storage is forbidden: nothing was kept.
    }
  }

  /** @param {string} [beginning] @returns {string[]} the names that begin so */
  names(beginning = "") {
    let kept = [];
    try {
      kept = Object.keys(this.#area());
    } catch {
      // Storage is forbidden: there is only what the page itself remembers.
    }
    const names = kept.filter((key) => key.startsWith(PREFIX)).map((key) => key.slice(PREFIX.length));
    return [...new Set([...names, ...this.#unkept.keys()])].filter((name) => name.startsWith(beginning));
  }

  /** Hear of each thing that is not kept. @param {(full: boolean) => void} listener told whether there is no room */
  onRefusal(listener) {
    this.#onRefusal = listener;
  }

  /** Hear of changes that other tabs make. @param {(name: string | null) => void} listener null: of all names */
  onForeignChange(listener) {
    addEventListener("storage", ({ key, storageArea }) => {
      if (key !== null && !key.startsWith(PREFIX)) return;
      if (storageArea === this.#area()) listener(key && key.slice(PREFIX.length));
    });
  }
}

/** Kept for good, and the same in every tab. */
export const everyTab = new Store(() => localStorage);

/** Kept through reloads of this tab. */
export const thisTab = new Store(() => sessionStorage);

/** @param {string} name @returns {string | null} */
export function recall(name) {
  return everyTab.get(name);
}

/** @param {string} name @param {string} value */
export function remember(name, value) {
  everyTab.set(name, value);
}
