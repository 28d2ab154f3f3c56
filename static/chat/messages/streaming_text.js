// Plain text that is appended to while it is shown. Rendered at most once per frame.

export class StreamingText {
  #node = document.createTextNode("");
  #pending = "";
  #frame = 0;

  /** @param {Element} parent */
  constructor(parent) {
    parent.append(this.#node);
  }

  get isEmpty() {
    return !this.#node.length && !this.#pending;
  }

  /** @returns {string} */
  get text() {
    return this.#node.data + this.#pending;
  }

  /** @param {string} text */
  append(text) {
    this.#pending += text;
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  /** Render the pending text now: a hidden tab has no frames. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#node.appendData(this.#pending);
    this.#pending = "";
  }

  clear() {
    this.flush();
    this.#node.data = "";
  }
}
