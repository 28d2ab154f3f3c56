// The pauses between attempts at something that fails: longer each time, counted down, over when the network returns.

import { onReturn } from "./page_events.js";

const LONGEST = 15;

export class Pauses {
  #attempt;
  #onTick;
  #first;
  #failures = 0;
  #timer = 0;
  #until = 0;
  #ended = new AbortController();

  /**
   * @param {() => void} attempt
   * @param {(seconds: number) => void} onTick told each second how many are left
   * @param {number} first seconds of the first pause; the following are 1, 2, 4 ... seconds long
   */
  constructor(attempt, onTick, first) {
    this.#attempt = attempt;
    this.#onTick = onTick;
    this.#first = first;
    onReturn(() => this.cutShort(), this.#ended.signal);
  }

  /** Attempt it again after a pause. @param {number} least seconds that the server asked for */
  next(least = 0) {
    const pause = this.#failures === 0 ? this.#first : Math.min(2 ** (this.#failures - 1), LONGEST);
    this.#failures += 1;
    this.#until = Date.now() + Math.max(pause, least) * 1000;
    clearTimeout(this.#timer);
    this.#tick();
  }

  /** Attempt it now, if there is a pause. */
  cutShort() {
    if (!this.#timer) return;
    this.rest();
    this.#attempt();
  }

  /** Attempt it no more until the next failure. */
  rest() {
    clearTimeout(this.#timer);
    this.#timer = 0;
  }

  /** It went well: the next pause is the first one again. */
  succeed() {
    this.#failures = 0;
  }

  end() {
    this.rest();
    this.#ended.abort();
  }

  /** By the clock, not by counting: a laptop may have slept meanwhile. */
  #tick() {
    const left = this.#until - Date.now();
    this.#timer = setTimeout(() => (Date.now() < this.#until ? this.#tick() : this.cutShort()), Math.min(left, 1000));
    this.#onTick(Math.max(Math.ceil(left / 1000), 0));
  }
}
