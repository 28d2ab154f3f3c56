// The inline editor of a prompt that was already sent.

import { make, makeButton } from "../../shared/dom.js";

export class PromptEditor {
  #textarea = make("textarea", "");
  #submitButton;
  #handlers;

  /**
   * @param {string} text
   * @param {object} handlers
   * @param {() => void} handlers.onCancel
   * @param {(text: string) => void} handlers.onSubmit
   */
  constructor(text, handlers) {
    this.#handlers = handlers;
    this.#textarea.value = text;
    this.#textarea.dir = "auto";
    this.#textarea.setAttribute("aria-label", "Edit message");
    this.#submitButton = makeButton("Save and send", () => this.#submit());
    this.#submitButton.classList.add("primary");
    const note = make("p", "", "The reply to this message will be replaced.");
    this.element = make("div", "editor", this.#textarea, note, makeButton("Cancel", handlers.onCancel), this.#submitButton);
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", "Message editor");
    this.element.addEventListener("keydown", (event) => this.#handleKey(event));
    this.#textarea.addEventListener("input", () => this.#update());
  }

  focus() {
    this.#textarea.focus();
    this.#textarea.setSelectionRange(this.#textarea.value.length, this.#textarea.value.length);
    this.#update();
  }

  #handleKey(event) {
    if (event.isComposing || event.keyCode === 229) return; // Safari ends an IME composition before its Enter
    if (event.key === "Escape") {
      event.stopPropagation(); // it must not stop a reply, too
      this.#handlers.onCancel();
    } else if (event.key === "Enter" && !event.shiftKey && event.target === this.#textarea) {
      event.preventDefault();
      this.#submit();
    }
  }

  #submit() {
    if (this.#textarea.value.trim()) this.#handlers.onSubmit(this.#textarea.value);
  }

  #update() {
    this.#submitButton.disabled = !this.#textarea.value.trim();
    this.#textarea.style.height = "auto";
    this.#textarea.style.height = `${this.#textarea.scrollHeight + 2}px`;
  }
}
