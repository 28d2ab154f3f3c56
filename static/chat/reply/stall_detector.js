// Notices that a connection may be dead though nothing said so: too long silent, a laptop that slept, a tab that was hidden.

import { onReturn } from "../../shared/page_events.js";

const TICK = 1000;

/** An EventSource does not show the server's heartbeats. Silence this long is ended by asking anew; it costs a request. */
const SILENCE = 20_000;

/** The server answers at once. A request that is not answered was sent into a connection that is dead already. */
const UNANSWERED = 8_000;

/** A silence that is doubted when the reader or the network comes back. */
const SHORT_SILENCE = 3_000;

/** Browsers allow six connections to a server: tabs that nobody sees leave theirs to others. */
const HIDDEN = 60_000;

export class Pulse {
  #last = Date.now();
  #limit = UNANSWERED;
  #hiddenSince = 0;
  #timer;
  #ended = new AbortController();

  /**
   * @param {object} listener
   * @param {() => void} listener.onSilence
   * @param {() => void} listener.onHidden the tab has been hidden for long
   */
  constructor({ onSilence, onHidden }) {
    this.#timer = setInterval(() => {
      if (this.#isHiddenForLong()) onHidden();
      else if (Date.now() - this.#last > this.#limit) this.#doubt(onSilence);
    }, TICK);
    const doubt = () => Date.now() - this.#last > SHORT_SILENCE && this.#doubt(onSilence);
    onReturn(doubt, this.#ended.signal);
  }

  /** A request is sent. */
  ask() {
    this.#last = Date.now();
    this.#limit = UNANSWERED;
  }

  /** Something came. */
  beat() {
    this.#last = Date.now();
    this.#limit = SILENCE;
  }

  end() {
    clearInterval(this.#timer);
    this.#ended.abort();
  }

  #doubt(onSilence) {
    this.#last = Date.now();
    onSilence();
  }

  #isHiddenForLong() {
    if (document.visibilityState === "visible") this.#hiddenSince = 0;
    else this.#hiddenSince ||= Date.now();
    return this.#hiddenSince > 0 && Date.now() - this.#hiddenSince > HIDDEN;
  }
}
