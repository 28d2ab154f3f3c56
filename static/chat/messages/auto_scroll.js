// Keeps the scroll position at the end while content grows, until the user scrolls up.

const END_THRESHOLD = 48; // pixels

export class AutoScroll {
  #scroller;
  #endButton;
  #isPinned = true;
  #lastTop = 0;
  #keptFromEnd = null; // distance to the end in pixels that is kept while messages are rendered above

  /** @param {HTMLElement} scroller @param {HTMLElement} content @param {HTMLButtonElement} endButton scrolls to the end */
  constructor(scroller, content, endButton) {
    this.#scroller = scroller;
    this.#endButton = endButton;
    scroller.addEventListener("scroll", () => this.#handleScroll(), { passive: true });
    endButton.addEventListener("click", () => this.scrollToEnd());
    // A ResizeObserver runs once per frame, after layout: reading sizes there forces no extra layout.
    const observer = new ResizeObserver(() => this.#handleResize());
    observer.observe(content);
    observer.observe(scroller);
  }

  /** Scroll to the end and stay there. */
  scrollToEnd() {
    this.#isPinned = true;
    this.#handleResize();
  }

  /**
   * Keep the visible content in place while `change` adds content above it, and until that is rendered.
   *
   * @param {() => void} change
   * @param {Promise<unknown>} rendered
   */
  async keepPosition(change, rendered) {
    this.#keptFromEnd = this.#fromEnd;
    change();
    this.#handleResize();
    await rendered;
    this.#handleResize();
    this.#keptFromEnd = null;
  }

  get #fromEnd() {
    return this.#scroller.scrollHeight - this.#scroller.scrollTop;
  }

  #handleResize() {
    if (this.#keptFromEnd !== null) {
      this.#scroller.scrollTop = this.#scroller.scrollHeight - this.#keptFromEnd;
      this.#lastTop = this.#scroller.scrollTop;
    } else if (this.#isPinned) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#endButton.hidden = this.#isPinned || this.#isNearEnd();
  }

  /** Unpin only when the user scrolls up: growing content also increases the distance to the end. */
  #handleScroll() {
    const top = this.#scroller.scrollTop;
    if (this.#keptFromEnd !== null) this.#keptFromEnd -= top - this.#lastTop; // the user scrolled
    if (this.#isNearEnd()) this.#isPinned = true;
    else if (top < this.#lastTop) this.#isPinned = false;
    this.#lastTop = top;
    this.#endButton.hidden = this.#isPinned;
  }

  #isNearEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < END_THRESHOLD;
  }
}
