// Retries with exponential backoff and a countdown. A pending retry runs at once when the network or the page resumes.

import { onResume } from "./page_events.js";

const MAX_DELAY = 15; // seconds

export class RetryTimer {
  #attempt;
  #onTick;
  #firstDelay;
  #failures = 0;
  #timer = 0;
  #dueAt = 0;
  #disposed = new AbortController();

  /**
   * @param {() => void} attempt
   * @param {(seconds: number) => void} onTick called each second with the seconds left
   * @param {number} firstDelay seconds before the first retry; the next ones wait 1, 2, 4 ... seconds
   */
  constructor(attempt, onTick, firstDelay) {
    this.#attempt = attempt;
    this.#onTick = onTick;
    this.#firstDelay = firstDelay;
    onResume(() => this.retryNow(), this.#disposed.signal);
  }

  /** Schedule the next retry. @param {number} minDelay seconds requested by the server (Retry-After) */
  schedule(minDelay = 0) {
    const delay = this.#failures === 0 ? this.#firstDelay : Math.min(2 ** (this.#failures - 1), MAX_DELAY);
    this.#failures += 1;
    this.#dueAt = Date.now() + Math.max(delay, minDelay) * 1000;
    clearTimeout(this.#timer);
    this.#tick();
  }

  /** Run a scheduled retry now. */
  retryNow() {
    if (!this.#timer) return;
    this.cancel();
    this.#attempt();
  }

  /** Cancel a scheduled retry. */
  cancel() {
    clearTimeout(this.#timer);
    this.#timer = 0;
  }

  /** Reset the backoff after a success. */
  reset() {
    this.#failures = 0;
  }

  dispose() {
    this.cancel();
    this.#disposed.abort();
  }

  /** Compare with the clock instead of counting ticks: timers stop while a laptop sleeps. */
  #tick() {
    const left = this.#dueAt - Date.now();
    this.#timer = setTimeout(() => (Date.now() < this.#dueAt ? this.#tick() : this.retryNow()), Math.min(left, 1000));
    this.#onTick(Math.max(Math.ceil(left / 1000), 0));
  }
}
