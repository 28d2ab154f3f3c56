// Keeps the scroll position at the end while content grows, until the user scrolls up.

const END_THRESHOLD = 48; // pixels

export class AutoScroll {
  #scroller;
  #endButton;
  #isPinned = true;
  #lastTop = 0;

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

  /** Keep the visible content in place while `change` adds content above it. @param {() => void} change */
  keepPosition(change) {
    const fromEnd = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    change();
    this.#scroller.scrollTop = this.#scroller.scrollHeight - fromEnd;
  }

  #handleResize() {
    if (this.#isPinned) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#endButton.hidden = this.#isPinned || this.#isNearEnd();
  }

  /** Unpin only when the user scrolls up: growing content also increases the distance to the end. */
  #handleScroll() {
    const top = this.#scroller.scrollTop;
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
