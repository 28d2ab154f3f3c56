// The quiet line while nothing comes: what is waited for, and for how long.

import { make } from "./elements.js";

const TELL_TIME_AFTER = 2;
const EXPLAIN_AFTER = 12;

export class Waiting {
  #words = make("span", "");
  #began = Date.now();
  #sentence;
  #timer;

  /** @param {string} sentence */
  constructor(sentence) {
    this.#sentence = sentence;
    this.element = make("p", "waiting", make("span", "dots", make("i", ""), make("i", ""), make("i", "")), this.#words);
    this.element.setAttribute("aria-hidden", "true"); // its seconds would be read out one by one
    this.#timer = setInterval(() => this.#tell(), 1000);
    this.#tell();
  }

  remove() {
    clearInterval(this.#timer);
    this.element.remove();
  }

  #tell() {
    const seconds = Math.round((Date.now() - this.#began) / 1000);
    const time = seconds < TELL_TIME_AFTER ? "" : ` ${seconds} s`;
    const why = seconds < EXPLAIN_AFTER ? "" : ". A large model takes a while to load.";
    this.#words.textContent = `${this.#sentence} …${time}${why}`;
  }
}
