// Plain text that is appended to while it is shown. Rendered at most once per frame.

import { PlainTextBlocks } from "../markdown/plain_text_blocks.js";

const MAX_NODE_LENGTH = 4_000; // characters; the browser lays out a text node at once, so more text goes into blocks

export class StreamingText {
  #text = "";
  #node = document.createTextNode("");
  #blocks; // for the text after the node
  #isNodeFull = false;
  #pending = "";
  #frame = 0;

  /** @param {Element} parent */
  constructor(parent) {
    parent.append(this.#node);
    this.#blocks = new PlainTextBlocks(parent);
  }

  get isEmpty() {
    return !this.#text;
  }

  /** @returns {string} */
  get text() {
    return this.#text;
  }

  /** @param {string} text */
  append(text) {
    this.#text += text;
    this.#pending += text;
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  /** Render the pending text now: a hidden tab has no frames. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#isNodeFull ||= this.#node.length + this.#pending.length > MAX_NODE_LENGTH;
    if (this.#isNodeFull) this.#blocks.append(this.#pending);
    else this.#node.appendData(this.#pending);
    this.#pending = "";
  }

  /** Resolves when all text so far is rendered. @returns {Promise<void>} */
  async whenRendered() {
    this.flush();
  }

  clear() {
    this.flush();
    this.#node.data = this.#text = "";
    this.#blocks.remove();
    this.#isNodeFull = false;
  }
}
