// Receives /status/events, reconnects when needed, and reports stale data.

import { urlOfPath } from "../shared/base_path.js";
import { redirectToSignIn } from "../shared/session.js";

const STALE_AFTER = 6; // seconds: three samples
const RECONNECT_AFTER = 12; // seconds without data: a connection may be dead without notice
const SOURCE = urlOfPath("/status/events");
const RETRY_DELAY = 2000; // milliseconds after the server rejected the request

/**
 * @typedef {object} Sample values at one moment: times in seconds, memory in bytes, null where there was nothing to measure
 * @property {number} time seconds since 1970, by the server's clock
 * @property {number} replies
 * @property {number} viewers
 * @property {number} lines per second
 * @property {number} batches per second
 * @property {number} cpu fraction of one core
 * @property {number} memory
 * @property {number} loop_lag
 * @property {number | null} line_latency_p50
 * @property {number | null} line_latency_p99
 * @property {number | null} first_event_p50
 * @property {number | null} first_event_p99
 * @property {number | null} journal_batch_p50
 * @property {number | null} journal_batch_p99
 *
 * @typedef {{state: string, seconds: number, response_time: number | null}} DependencyState
 *
 * @typedef {object} Update the newest sample and the current state
 * @property {Sample} sample
 * @property {string} process
 * @property {number} uptime
 * @property {Sample} last_minute
 * @property {Sample} all
 * @property {Record<string, any>} totals
 * @property {DependencyState} database
 * @property {DependencyState} ollama
 * @property {{id: string | null, age: number | null, replies: number}[] | null} processes
 * @property {{kind: string, severe: boolean, message: string}[]} problems
 *
 * @typedef {object} Listener
 * @property {(samples: Sample[], isNewProcess: boolean) => void} onHistory the samples before the first update
 * @property {(update: Update) => void} onUpdate
 * @property {(message: string) => void} onForbidden the signed-in user may not see the status
 * @property {(seconds: number | null) => void} onStale age of the last update; null: there was none
 */

export class StatusFeed {
  #listener;
  #source = null;
  #processKey = "";
  #lastUpdateAt = performance.now();
  #hasData = false;
  #reconnectAfter = RECONNECT_AFTER;
  #isForbidden = false;

  /** @param {Listener} listener */
  constructor(listener) {
    this.#listener = listener;
    this.#connect();
    setInterval(() => this.#checkAge(), 1000);
  }

  #connect() {
    this.#source?.close();
    const source = new EventSource(SOURCE);
    this.#source = source;
    source.addEventListener("past", (event) => this.#handleHistory(event));
    source.addEventListener("message", (event) => this.#handleUpdate(event));
    source.addEventListener("error", () => {
      // The browser reconnects by itself, unless the server rejected the request.
      if (source.readyState === EventSource.CLOSED) this.#handleRejection(source);
    });
  }

  /** Request again with fetch: an EventSource does not expose the response status. */
  async #handleRejection(source) {
    const controller = new AbortController();
    const response = await fetch(SOURCE, { signal: controller.signal }).catch(() => null);
    if (response?.status === 401) redirectToSignIn();
    if (response?.status === 403) {
      this.#isForbidden = true;
      this.#listener.onForbidden((await response.json()).error);
      return;
    }
    controller.abort();
    setTimeout(() => source === this.#source && this.#connect(), RETRY_DELAY);
  }

  #handleHistory(event) {
    const key = event.lastEventId.split("-")[0];
    this.#listener.onHistory(JSON.parse(event.data), key !== this.#processKey);
    this.#processKey = key;
  }

  #handleUpdate(event) {
    this.#lastUpdateAt = performance.now();
    this.#reconnectAfter = RECONNECT_AFTER;
    this.#hasData = true;
    this.#listener.onUpdate(JSON.parse(event.data));
  }

  #checkAge() {
    const seconds = (performance.now() - this.#lastUpdateAt) / 1000;
    if (seconds < STALE_AFTER || this.#isForbidden) return;
    this.#listener.onStale(this.#hasData ? seconds : null);
    if (seconds < this.#reconnectAfter) return;
    this.#reconnectAfter = seconds + RECONNECT_AFTER;
    this.#connect();
  }
}
