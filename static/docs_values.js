// What answers have told that other operations can use: a reply's id, a model that is there.

export class KnownValues extends EventTarget {
  /** @type {Map<string, string>} */
  #values = new Map();

  /** @param {string} name @param {string} value */
  put(name, value) {
    this.#values.set(name, value);
    this.dispatchEvent(new Event("change"));
  }

  /** @param {string} name @returns {string | undefined} */
  get(name) {
    return this.#values.get(name);
  }
}
