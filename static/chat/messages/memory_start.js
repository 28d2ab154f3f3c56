// The line where the model's memory begins, with the summary of what is before it.

import { TextEditor } from "./text_editor.js";
import { make, makeButton } from "../../shared/dom.js";

const WITHOUT_SUMMARY = "The model no longer sees the messages above.";
const WITH_SUMMARY = "The model sees a summary of the messages above.";
const MAX_LENGTH = 4_000; // characters; the server accepts no more

/** @typedef {import("../../shared/api.js").Summary} Summary */

export class MemoryStart {
  #line = make("p", "", WITHOUT_SUMMARY);
  #text = make("p", "summary-text");
  #edit = makeButton("Edit summary", () => this.#openEditor());
  #details = make("details", "disclosure", make("summary", "", "Summary"), this.#text, this.#edit);
  /** @type {TextEditor | null} */
  #editor = null;
  /** @type {Summary | null} */
  #summary = null;
  /** @type {((summary: Summary, text: string) => void) | null} */
  #onEdit = null;

  element = make("div", "memory-start", this.#line);

  constructor() {
    this.#text.dir = "auto";
  }

  /** Show a summary, which the model sees; null: none. An open editor stays. @param {Summary | null} summary */
  show(summary) {
    this.#line.textContent = summary ? WITH_SUMMARY : WITHOUT_SUMMARY;
    this.#text.textContent = summary?.text ?? "";
    if (!this.#editor) this.#summary = summary;
    if (summary || this.#editor) this.element.append(this.#details);
    else this.#details.remove();
  }

  /** Allow to edit the summary. @param {((summary: Summary, text: string) => void) | null} onEdit null: it is not */
  setOnEdit(onEdit) {
    this.#onEdit = onEdit;
    this.#edit.hidden = !onEdit;
  }

  #openEditor() {
    const summary = this.#summary;
    const close = () => {
      this.#editor.element.replaceWith(this.#text, this.#edit);
      this.#editor = null;
    };
    this.#editor = new TextEditor(summary.text, {
      label: "Summary of the messages above",
      group: "Summary editor",
      note: "The model gets it with the next message. If it is empty, the model gets none.",
      submit: "Save",
      mayBeEmpty: true,
      maxLength: MAX_LENGTH,
      onCancel: () => (close(), this.#edit.focus()),
      onSubmit: (text) => (close(), this.#onEdit?.(summary, text)),
    });
    this.#text.replaceWith(this.#editor.element);
    this.#edit.remove();
    this.#editor.focus();
  }
}
