// Plain text in pieces: the browser lays out only those in sight, however long the text is.

import { make } from "../../shared/dom.js";

const LENGTH = 10_000; // characters in a piece, roughly

export class PlainBlocks {
  #parent;
  #node = null;

  /** @param {Element} parent */
  constructor(parent) {
    this.#parent = parent;
  }

  /** @param {string} words */
  append(words) {
    for (let rest = words; rest; ) {
      if (!this.#node || this.#node.length >= LENGTH) this.#add();
      const taken = rest.slice(0, LENGTH);
      const end = this.#endIn(taken, rest.length > taken.length);
      this.#node.appendData(rest.slice(0, end));
      rest = rest.slice(end);
    }
  }

  /** Pieces end with a line or a word where there is one. */
  #endIn(taken, more) {
    if (!more) return taken.length;
    const end = Math.max(taken.lastIndexOf("\n"), taken.lastIndexOf(" ")) + 1;
    return end || taken.length;
  }

  #add() {
    this.#node = document.createTextNode("");
    const block = make("div", "block plain", this.#node);
    block.dir = "auto";
    this.#parent.append(block);
  }
}
