// Where a prompt that was sent is written anew, in its own place.

import { make, makeButton } from "../../shared/dom.js";

export class PromptEditor {
  #box = make("textarea", "");
  #ask;
  #handlers;

  /**
   * @param {string} text
   * @param {object} handlers
   * @param {() => void} handlers.onCancel
   * @param {(text: string) => void} handlers.onDone
   */
  constructor(text, handlers) {
    this.#handlers = handlers;
    this.#box.value = text;
    this.#box.dir = "auto";
    this.#box.setAttribute("aria-label", "Your words");
    this.#ask = makeButton("Ask again", () => this.#finish());
    this.#ask.classList.add("primary");
    const note = make("p", "", "The answer to these words is replaced.");
    this.element = make("div", "editor", this.#box, note, makeButton("Cancel", handlers.onCancel), this.#ask);
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", "Edit");
    this.element.addEventListener("keydown", (event) => this.#takeKey(event));
    this.#box.addEventListener("input", () => this.#update());
  }

  focus() {
    this.#box.focus();
    this.#box.setSelectionRange(this.#box.value.length, this.#box.value.length);
    this.#update();
  }

  #takeKey(event) {
    if (event.isComposing || event.keyCode === 229) return; // Safari ends a composition before its Enter
    if (event.key === "Escape") {
      event.stopPropagation(); // elsewhere it stops a reply
      this.#handlers.onCancel();
    } else if (event.key === "Enter" && !event.shiftKey && event.target === this.#box) {
      event.preventDefault();
      this.#finish();
    }
  }

  #finish() {
    if (this.#box.value.trim()) this.#handlers.onDone(this.#box.value);
  }

  #update() {
    this.#ask.disabled = !this.#box.value.trim();
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight + 2}px`;
  }
}
