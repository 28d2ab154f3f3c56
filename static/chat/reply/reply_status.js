// The one line under a reply that says how it stands: with its connection, its words, and in the end its figures.

import { formatRate } from "./reply_stats.js";
import { make, makeButton } from "../../shared/dom.js";

const TELL_TIME_AFTER = 2;
const EXPLAIN_AFTER = 12;
const BUSY = ["sending", "connecting", "waiting", "reconnecting", "queued", "unsent"];

export class ReplyStatus {
  #words = make("span", "words");
  #line = make("p", "line", make("span", "dots", make("i", ""), make("i", ""), make("i", "")), this.#words);
  #buttons = make("span", "buttons");
  #state = "";
  #since = 0;
  #timer = 0;

  constructor() {
    this.element = make("div", "status", this.#line, this.#buttons);
    this.#line.hidden = true;
  }

  send() {
    this.#enter("sending", (seconds) => `Sending …${told(seconds)}`);
  }

  connect() {
    this.#enter("connecting", (seconds) => `Connecting …${told(seconds)}`);
  }

  /** The first words are awaited. */
  wait() {
    this.#enter("waiting", (seconds) => {
      const why = seconds < EXPLAIN_AFTER ? "" : ". A large model takes a while to load.";
      return `Waiting for the model …${told(seconds)}${why}`;
    });
  }

  /** @param {import("./reply_stats.js").Figures} figures */
  stream(figures) {
    this.#enter("streaming", () => (figures.rate === null ? "" : formatRate(figures.rate)));
  }

  /** @param {number} seconds until it is tried again; 0: now @param {() => void} onNow */
  reconnect(seconds, onNow) {
    const next = seconds ? `Trying again in ${seconds} s. The reply goes on in the server.` : "Connecting again …";
    this.#enter("reconnecting", () => `${navigator.onLine ? "The connection was lost." : "You are offline."} ${next}`);
    this.#offer("now", "Try now", seconds > 0 ? onNow : null);
  }

  /** The prompt is not with the server yet. @param {string} why @param {number} seconds @param {() => void} onNow */
  unsent(why, seconds, onNow) {
    const next = seconds ? `Trying again in ${seconds} s.` : "Trying again …";
    this.#enter("unsent", () => `Not sent yet. ${navigator.onLine ? why : "You are offline."} ${next}`);
    this.#offer("now", "Try now", seconds > 0 ? onNow : null);
  }

  /** Another reply is in the way. */
  queue() {
    this.#enter("queued", () => "Not sent yet. It is sent after the reply that is running.");
  }

  /**
   * @param {object} ending
   * @param {string} [ending.sentence]
   * @param {import("./reply_stats.js").Figures} [ending.figures]
   */
  end({ sentence = "", figures }) {
    this.#enter("ended", () => sentence);
    this.#leaveState();
    if (figures?.summary) this.element.append(figuresOf(figures));
  }

  /** Offer the reader something, until it is taken back with null. @param {() => void | null} onClick */
  offer(label, onClick) {
    this.#offer("more", label, onClick);
  }

  remove() {
    this.#leaveState();
    this.element.remove();
  }

  /** The button stays the same one while the seconds go by: it may have the focus. */
  #offer(name, label, onClick) {
    let button = this.#buttons.querySelector(`.${name}`);
    if (!onClick) {
      button?.remove();
    } else if (!button) {
      button = makeButton(label, onClick);
      button.classList.add(name, "retry");
      this.#buttons.append(button);
    }
  }

  #enter(state, describe) {
    if (state !== this.#state) {
      this.#leaveState();
      this.#state = state;
      this.#since = Date.now();
      this.element.dataset.state = state;
      this.#offer("now", "", null);
    }
    const tell = () => {
      this.#words.textContent = describe(Math.round((Date.now() - this.#since) / 1000));
      this.#line.hidden = !this.#words.textContent;
    };
    clearInterval(this.#timer);
    this.#timer = setInterval(tell, 1000);
    this.#line.classList.toggle("waiting", BUSY.includes(state));
    tell();
  }

  #leaveState() {
    clearInterval(this.#timer);
  }
}

/** @param {number} seconds */
function told(seconds) {
  return seconds < TELL_TIME_AFTER ? "" : ` ${seconds} s`;
}

/** @param {import("./reply_stats.js").Figures} figures */
function figuresOf(figures) {
  const rows = figures.list().map(({ name, value }) => make("div", "", make("dt", "", name), make("dd", "", value)));
  return make("details", "figures", make("summary", "", figures.summary), make("dl", "", ...rows));
}
