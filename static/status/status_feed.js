// The figures as they come from /status/events, over as many connections as it takes, and how old they are.

import { leaveToSignIn } from "../shared/session.js";

const OLD_AFTER = 6; // seconds: three samples
const GIVE_UP_AFTER = 12; // seconds without a word after which to connect anew: a connection can be dead unnoticed
const SOURCE = "/status/events";
const RETRY = 2000; // milliseconds after the server refused

/**
 * @typedef {object} Sample one moment's figures: times in seconds, memory in bytes, null where nothing was to measure
 * @property {number} time seconds since 1970, by the server's clock
 * @property {number} replies
 * @property {number} viewers
 * @property {number} lines by the second
 * @property {number} rounds by the second
 * @property {number} processor part of one core
 * @property {number} memory
 * @property {number} loop_lag
 * @property {number | null} line_latency_p50
 * @property {number | null} line_latency_p99
 * @property {number | null} first_event_p50
 * @property {number | null} first_event_p99
 * @property {number | null} journal_round_p50
 * @property {number | null} journal_round_p99
 *
 * @typedef {{state: string, seconds: number, took: number | null}} State
 *
 * @typedef {object} Now the newest sample, and what is known besides
 * @property {Sample} sample
 * @property {string} process
 * @property {number} uptime
 * @property {Sample} minute
 * @property {Sample} all
 * @property {Record<string, any>} totals
 * @property {State} database
 * @property {State} ollama
 * @property {{id: string | null, age: number | null, replies: number}[] | null} processes
 * @property {{kind: string, serious: boolean, sentence: string}[]} troubles
 *
 * @typedef {object} Listener
 * @property {(samples: Sample[], anew: boolean) => void} onSamples older than `onNow`'s; anew: another process's
 * @property {(now: Now) => void} onNow
 * @property {(sentence: string) => void} onRefusal the server does not show them to who is signed in
 * @property {(seconds: number | null) => void} onOld no figures for so long; null if there never were any
 */

export class StatusFeed {
  #listener;
  #source = null;
  #key = "";
  #heard = performance.now();
  #any = false;
  #connectAt = GIVE_UP_AFTER;
  #refused = false;

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
    source.addEventListener("past", (event) => this.#takePast(event));
    source.addEventListener("message", (event) => this.#takeNow(event));
    source.addEventListener("error", () => {
      // The browser connects again by itself, unless the server refused.
      if (source.readyState === EventSource.CLOSED) this.#takeRefusal(source);
    });
  }

  /** An EventSource does not say why it was refused. */
  async #takeRefusal(source) {
    const asking = new AbortController();
    const answer = await fetch(SOURCE, { signal: asking.signal }).catch(() => null);
    if (answer?.status === 401) leaveToSignIn();
    if (answer?.status === 403) {
      this.#refused = true;
      this.#listener.onRefusal((await answer.json()).error);
      return;
    }
    asking.abort();
    setTimeout(() => source === this.#source && this.#connect(), RETRY);
  }

  #takePast(event) {
    const key = event.lastEventId.split("-")[0];
    this.#listener.onSamples(JSON.parse(event.data), key !== this.#key);
    this.#key = key;
  }

  #takeNow(event) {
    this.#heard = performance.now();
    this.#connectAt = GIVE_UP_AFTER;
    this.#any = true;
    this.#listener.onNow(JSON.parse(event.data));
  }

  #checkAge() {
    const seconds = (performance.now() - this.#heard) / 1000;
    if (seconds < OLD_AFTER || this.#refused) return;
    this.#listener.onOld(this.#any ? seconds : null);
    if (seconds < this.#connectAt) return;
    this.#connectAt = seconds + GIVE_UP_AFTER;
    this.#connect();
  }
}
