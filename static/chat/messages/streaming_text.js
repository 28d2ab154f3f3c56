// Text that grows: words are collected and put on the page once a frame, so that a long reply stays cheap.

export class GrowingText {
  #node = document.createTextNode("");
  #unshown = "";
  #frame = 0;

  /** @param {Element} parent */
  constructor(parent) {
    parent.append(this.#node);
  }

  get isEmpty() {
    return !this.#node.length && !this.#unshown;
  }

  /** @returns {string} */
  get text() {
    return this.#node.data + this.#unshown;
  }

  /** @param {string} words */
  append(words) {
    this.#unshown += words;
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  /** Show what was appended now; a hidden tab has no frames. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#node.appendData(this.#unshown);
    this.#unshown = "";
  }

  clear() {
    this.flush();
    this.#node.data = "";
  }
}
