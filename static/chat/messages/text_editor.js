// The inline editor of a text that was already sent.

import { make, makeButton } from "../../shared/dom.js";

export class TextEditor {
  #textarea = make("textarea", "");
  #submitButton;
  #onCancel;
  #onSubmit;
  #mayBeEmpty;

  /**
   * @param {string} text
   * @param {object} properties
   * @param {string} properties.label of the text
   * @param {string} properties.group name of the editor
   * @param {string} properties.note what happens to the text
   * @param {string} properties.submit label of the button
   * @param {boolean} [properties.mayBeEmpty]
   * @param {number} [properties.maxLength]
   * @param {() => void} properties.onCancel
   * @param {(text: string) => void} properties.onSubmit
   */
  constructor(text, { label, group, note, submit, mayBeEmpty = false, maxLength = -1, onCancel, onSubmit }) {
    this.#mayBeEmpty = mayBeEmpty;
    this.#onCancel = onCancel;
    this.#onSubmit = onSubmit;
    this.#textarea.value = text;
    this.#textarea.dir = "auto";
    if (maxLength >= 0) this.#textarea.maxLength = maxLength;
    this.#textarea.setAttribute("aria-label", label);
    this.#submitButton = makeButton(submit, () => this.#submit());
    this.#submitButton.classList.add("primary");
    const cancel = makeButton("Cancel", onCancel);
    this.element = make("div", "editor", this.#textarea, make("p", "", note), cancel, this.#submitButton);
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", group);
    this.element.addEventListener("keydown", (event) => this.#handleKey(event));
    this.#textarea.addEventListener("input", () => this.#update());
  }

  focus() {
    this.#textarea.focus();
    this.#textarea.setSelectionRange(this.#textarea.value.length, this.#textarea.value.length);
    this.#update();
  }

  get #isComplete() {
    return this.#mayBeEmpty || this.#textarea.value.trim() !== "";
  }

  #handleKey(event) {
    if (event.isComposing || event.keyCode === 229) return; // Safari ends an IME composition before its Enter
    if (event.key === "Escape") {
      event.stopPropagation(); // it must not stop a reply, too
      this.#onCancel();
    } else if (event.key === "Enter" && !event.shiftKey && event.target === this.#textarea) {
      event.preventDefault();
      this.#submit();
    }
  }

  #submit() {
    if (this.#isComplete) this.#onSubmit(this.#textarea.value);
  }

  #update() {
    this.#submitButton.disabled = !this.#isComplete;
    this.#textarea.style.height = "auto";
    this.#textarea.style.height = `${this.#textarea.scrollHeight + 2}px`;
  }
}
