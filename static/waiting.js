// The quiet line while nothing comes: what is waited for, and for how long.

import { make } from "./elements.js";

const TELL_TIME_AFTER = 2;
const EXPLAIN_AFTER = 12;

export class Waiting {
  #words = make("span", "");
  #began = Date.now();
  #explanation;
  #timer;

  /** @param {string} sentence @param {string} explanation told when it takes long */
  constructor(sentence, explanation) {
    this.sentence = sentence;
    this.#explanation = explanation;
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
    const why = seconds < EXPLAIN_AFTER ? "" : `. ${this.#explanation}`;
    this.#words.textContent = `${this.sentence} …${time}${why}`;
  }
}
