// Long plain text in blocks: the browser lays out only the visible ones (content-visibility).

import { make } from "../../shared/dom.js";

const BLOCK_LENGTH = 4_000; // characters, approximately

export class PlainTextBlocks {
  #parent;
  #blocks = [];
  #node = null; // of the last block

  /** @param {Element} parent */
  constructor(parent) {
    this.#parent = parent;
  }

  /** @param {string} text */
  append(text) {
    for (let rest = text; rest; ) {
      if (!this.#node || this.#node.length >= BLOCK_LENGTH) this.#addBlock();
      const part = rest.slice(0, BLOCK_LENGTH);
      const end = this.#endOf(part, rest.length > part.length);
      this.#node.appendData(rest.slice(0, end));
      rest = rest.slice(end);
    }
  }

  /** End a block after a line or a word, if possible. */
  #endOf(part, hasMore) {
    if (!hasMore) return part.length;
    const end = Math.max(part.lastIndexOf("\n"), part.lastIndexOf(" ")) + 1;
    return end || part.length;
  }

  #addBlock() {
    this.#node = document.createTextNode("");
    const block = make("div", "block plain", this.#node);
    block.dir = "auto";
    this.#blocks.push(block);
    this.#parent.append(block);
  }

  remove() {
    for (const block of this.#blocks.splice(0)) block.remove();
    this.#node = null;
  }
}
