// The model's thinking: collapsed, with its duration.

import { StreamingText } from "./streaming_text.js";
import { make } from "../../shared/dom.js";

export class Thinking {
  #label = make("summary", "");
  #element;
  #text;
  #startedAt = null;
  #lastAt = 0;
  #duration = 0; // milliseconds of the finished periods of thinking

  /** @param {HTMLElement} message the element to prepend it to */
  constructor(message) {
    const text = make("div", "text");
    text.dir = "auto";
    this.#text = new StreamingText(text);
    this.#element = make("details", "thinking", this.#label, text);
    message.prepend(this.#element);
  }

  /** @param {string} text @param {number} time when it was generated, in milliseconds */
  append(text, time) {
    if (this.#startedAt === null) {
      this.#startedAt = time;
      this.#label.textContent = "Thinking…";
    }
    this.#lastAt = time;
    this.#text.append(text);
  }

  /** End a period of thinking. @param {number} time in milliseconds */
  end(time) {
    if (this.#startedAt === null) return;
    this.#duration += time - this.#startedAt;
    this.#label.textContent = labelFor(Math.round(this.#duration / 1000));
    this.#startedAt = null;
  }

  flush() {
    this.#text.flush();
    this.end(this.#lastAt);
  }

  remove() {
    this.#element.remove();
  }
}

/** The duration is unknown (0) for messages from the history. @param {number} seconds */
function labelFor(seconds) {
  if (seconds < 1) return "Thinking";
  if (seconds < 60) return `Thought for ${seconds} s`;
  return `Thought for ${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
