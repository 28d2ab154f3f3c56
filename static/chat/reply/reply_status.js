// The status line below a reply: connection state, speed, outcome, and finally its statistics.

import { formatRate } from "./reply_stats.js";
import { make, makeButton } from "../../shared/dom.js";

const SHOW_TIME_AFTER = 2; // seconds
const EXPLAIN_AFTER = 12; // seconds
const BUSY_STATES = ["sending", "connecting", "waiting", "reconnecting", "queued", "unsent"];

export class ReplyStatus {
  #text = make("span", "status-text");
  #line = make("p", "status-line", make("span", "dots", make("i", ""), make("i", ""), make("i", "")), this.#text);
  #buttons = make("span", "buttons");
  #state = "";
  #since = 0;
  #timer = 0;

  constructor() {
    this.element = make("div", "status", this.#line, this.#buttons);
    this.#line.hidden = true;
  }

  showSending() {
    this.#setState("sending", (seconds) => `Sending…${formatTime(seconds)}`);
  }

  showConnecting() {
    this.#setState("connecting", (seconds) => `Connecting…${formatTime(seconds)}`);
  }

  /** Waiting for the first token. */
  showWaiting() {
    this.#setState("waiting", (seconds) => {
      const explanation = seconds < EXPLAIN_AFTER ? "" : ". Large models take a while to load.";
      return `Waiting for the model…${formatTime(seconds)}${explanation}`;
    });
  }

  /** @param {import("./reply_stats.js").ReplyStats} stats */
  showStreaming(stats) {
    this.#setState("streaming", () => (stats.rate === null ? "" : formatRate(stats.rate)));
  }

  /** @param {number} seconds until the next attempt; 0: now @param {() => void} onRetry */
  showReconnecting(seconds, onRetry) {
    const next = seconds ? `Retrying in ${seconds} s. The reply continues on the server.` : "Reconnecting…";
    this.#setState("reconnecting", () => `${navigator.onLine ? "Connection lost." : "You are offline."} ${next}`);
    this.#setButton("retry-now", "Retry now", seconds > 0 ? onRetry : null);
  }

  /** The prompt could not be sent. @param {string} reason @param {number} seconds @param {() => void} onRetry */
  showUnsent(reason, seconds, onRetry) {
    const next = seconds ? `Retrying in ${seconds} s.` : "Retrying…";
    this.#setState("unsent", () => `Not sent yet. ${navigator.onLine ? reason : "You are offline."} ${next}`);
    this.#setButton("retry-now", "Retry now", seconds > 0 ? onRetry : null);
  }

  /** Another reply is running. */
  showQueued() {
    this.#setState("queued", () => "Not sent yet. Waiting for the current reply to finish.");
  }

  /**
   * @param {object} outcome
   * @param {string} [outcome.text]
   * @param {import("./reply_stats.js").ReplyStats} [outcome.stats]
   */
  showEnd({ text = "", stats }) {
    this.explainEnd(text);
    if (stats?.summary) this.element.append(makeStats(stats));
  }

  /** Say why the reply has ended. @param {string} text */
  explainEnd(text) {
    this.#setState("ended", () => text);
    clearInterval(this.#timer);
  }

  /** Show a button for an action; null removes it. @param {string} label @param {(() => void) | null} onClick */
  setAction(label, onClick) {
    this.#setButton("action", label, onClick);
  }

  /** Show a second button, for another way to go on; null removes it. @param {string} label @param {(() => void) | null} onClick */
  setAlternative(label, onClick) {
    this.#setButton("alternative", label, onClick);
  }

  /** Keep an existing button element: it may have the focus while the countdown changes. */
  #setButton(name, label, onClick) {
    let button = this.#buttons.querySelector(`.${name}`);
    if (!onClick) {
      button?.remove();
    } else if (!button) {
      button = makeButton(label, onClick);
      button.classList.add(name);
      this.#buttons.append(button);
    }
  }

  #setState(state, describe) {
    if (state !== this.#state) {
      this.#state = state;
      this.#since = Date.now();
      this.element.dataset.state = state;
      this.#setButton("retry-now", "", null);
    }
    const update = () => {
      this.#text.textContent = describe(Math.round((Date.now() - this.#since) / 1000));
      this.#line.hidden = !this.#text.textContent;
    };
    clearInterval(this.#timer);
    this.#timer = setInterval(update, 1000);
    this.#line.classList.toggle("busy", BUSY_STATES.includes(state));
    update();
  }
}

/** @param {number} seconds */
function formatTime(seconds) {
  return seconds < SHOW_TIME_AFTER ? "" : ` ${seconds} s`;
}

/** @param {import("./reply_stats.js").ReplyStats} stats */
function makeStats(stats) {
  const rows = stats.list().map(({ name, value }) => make("div", "", make("dt", "", name), make("dd", "", value)));
  return make("details", "stats disclosure", make("summary", "", stats.summary), make("dl", "", ...rows));
}
