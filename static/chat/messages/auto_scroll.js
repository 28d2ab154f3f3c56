// Keeps the newest words in sight, and lets go as soon as the reader scrolls up.

const NEAR_END = 48;

export class PinnedScroll {
  #scroller;
  #toEnd;
  #pinned = true;
  #lastTop = 0;

  /** @param {HTMLElement} scroller @param {HTMLElement} content @param {HTMLButtonElement} toEnd */
  constructor(scroller, content, toEnd) {
    this.#scroller = scroller;
    this.#toEnd = toEnd;
    scroller.addEventListener("scroll", () => this.#takeScroll(), { passive: true });
    toEnd.addEventListener("click", () => this.pin());
    // Called once a frame, after layout: no size is asked for in between.
    const observer = new ResizeObserver(() => this.#takeGrowth());
    observer.observe(content);
    observer.observe(scroller);
  }

  /** Go to the end and stay there. */
  pin() {
    this.#pinned = true;
    this.#takeGrowth();
  }

  /** Run `change`, which adds something above, without moving what is being read. @param {() => void} change */
  keepPlace(change) {
    const fromEnd = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    change();
    this.#scroller.scrollTop = this.#scroller.scrollHeight - fromEnd;
  }

  #takeGrowth() {
    if (this.#pinned) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#toEnd.hidden = this.#pinned || this.#isNearEnd();
  }

  /** Text that grew since the last frame moves the end away: only scrolling up lets go. */
  #takeScroll() {
    const top = this.#scroller.scrollTop;
    if (this.#isNearEnd()) this.#pinned = true;
    else if (top < this.#lastTop) this.#pinned = false;
    this.#lastTop = top;
    this.#toEnd.hidden = this.#pinned;
  }

  #isNearEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }
}
