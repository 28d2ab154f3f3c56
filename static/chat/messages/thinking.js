// What the model thought before it spoke: folded away, with the time that it took.

import { GrowingText } from "./streaming_text.js";
import { make } from "../../shared/dom.js";

export class Thinking {
  #label = make("summary", "");
  #element;
  #text;
  #began = null;
  #last = 0;
  #before = 0; // milliseconds thought before the model spoke in between

  /** @param {HTMLElement} message that it stands at the top of */
  constructor(message) {
    const text = make("div", "text");
    text.dir = "auto";
    this.#text = new GrowingText(text);
    this.#element = make("details", "thinking", this.#label, text);
    message.prepend(this.#element);
  }

  /** @param {string} words @param {number} time when they were written, in milliseconds */
  append(words, time) {
    if (this.#began === null) {
      this.#began = time;
      this.#label.textContent = "Thinking …";
    }
    this.#last = time;
    this.#text.append(words);
  }

  /** The model speaks, or is done. @param {number} time when, in milliseconds */
  end(time) {
    if (this.#began === null) return;
    this.#before += time - this.#began;
    this.#label.textContent = labelFor(Math.round(this.#before / 1000));
    this.#began = null;
  }

  flush() {
    this.#text.flush();
    this.end(this.#last);
  }

  remove() {
    this.#element.remove();
  }
}

/** Thoughts from the history come all at once: nothing is known of their time. @param {number} seconds */
function labelFor(seconds) {
  if (seconds < 1) return "Thinking";
  if (seconds < 60) return `Thought for ${seconds} s`;
  return `Thought for ${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
