// Detects connections that may be dead without notice: no data for long, a laptop that slept, a hidden tab.

import { onResume } from "../../shared/page_events.js";

const CHECK_INTERVAL = 1000; // milliseconds, like all times here

/** An EventSource does not expose the server's heartbeat comments. After this time without events, reconnect: it costs one request. */
const IDLE_TIMEOUT = 20_000;

/** The server responds at once. A request without a response went to a dead connection. */
const RESPONSE_TIMEOUT = 8_000;

/** The idle time that counts as a stall when the page or the network resumes. */
const RESUME_TIMEOUT = 3_000;

/** Browsers allow six connections per server (HTTP/1.1): hidden tabs release theirs. */
const HIDDEN_TIMEOUT = 60_000;

export class StallDetector {
  #lastActivity = Date.now();
  #timeout = RESPONSE_TIMEOUT;
  #hiddenSince = 0;
  #timer;
  #disposed = new AbortController();

  /**
   * @param {object} listener
   * @param {() => void} listener.onStall
   * @param {() => void} listener.onHidden the tab has been hidden for HIDDEN_TIMEOUT
   */
  constructor({ onStall, onHidden }) {
    this.#timer = setInterval(() => {
      if (this.#isHiddenForLong()) onHidden();
      else if (this.#idleTime() > this.#timeout) this.#report(onStall);
    }, CHECK_INTERVAL);
    onResume(() => this.#idleTime() > RESUME_TIMEOUT && this.#report(onStall), this.#disposed.signal);
  }

  /** Call when a request is sent. */
  handleRequest() {
    this.#lastActivity = Date.now();
    this.#timeout = RESPONSE_TIMEOUT;
  }

  /** Call when data is received. */
  handleActivity() {
    this.#lastActivity = Date.now();
    this.#timeout = IDLE_TIMEOUT;
  }

  dispose() {
    clearInterval(this.#timer);
    this.#disposed.abort();
  }

  #idleTime() {
    return Date.now() - this.#lastActivity;
  }

  #report(onStall) {
    this.#lastActivity = Date.now();
    onStall();
  }

  #isHiddenForLong() {
    if (document.visibilityState === "visible") this.#hiddenSince = 0;
    else this.#hiddenSince ||= Date.now();
    return this.#hiddenSince > 0 && Date.now() - this.#hiddenSince > HIDDEN_TIMEOUT;
  }
}
