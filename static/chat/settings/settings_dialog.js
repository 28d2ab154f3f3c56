// The dialog of a conversation's settings: shows them, says what is wrong with them, and gives them back changed.

import { FIELDS, complaintAbout } from "./model_options.js";
import { make } from "../../shared/dom.js";

export class SettingsDialog {
  #dialog;
  #form;
  #onSave;

  /** @param {HTMLDialogElement} dialog @param {(settings: import("./model_options.js").Settings) => void} onSave */
  constructor(dialog, onSave) {
    this.#dialog = dialog;
    this.#form = dialog.querySelector("form");
    this.#onSave = onSave;
    dialog.querySelector("#options").append(...FIELDS.map(makeRow));
    this.#form.addEventListener("submit", (event) => this.#takeSubmit(event));
    this.#form.addEventListener("input", (event) => this.#takeInput(event));
    dialog.querySelector("#settings-cancel").addEventListener("click", () => dialog.close());
    dialog.querySelector("#settings-reset").addEventListener("click", () => this.#fill({}));
  }

  /**
   * @param {import("./model_options.js").Settings} settings
   * @param {import("../../shared/api.js").Model | undefined} model which may know its longest context
   */
  open(settings, model) {
    this.#fill(settings);
    const longest = model?.details?.context_length;
    this.#form.elements.num_ctx.placeholder = longest ? `the model’s own; ${longest} at most` : "the model’s own";
    this.#dialog.showModal();
    this.#form.elements.system.focus();
  }

  close() {
    this.#dialog.close();
  }

  #fill(settings) {
    this.#form.elements.system.value = settings.system ?? "";
    for (const field of FIELDS) {
      this.#form.elements[field.name].value = settings[field.name] ?? "";
      this.#judge(field);
    }
  }

  /** Say what is wrong with a field. @returns {boolean} whether nothing is */
  #judge(field) {
    const box = this.#form.elements[field.name];
    const complaint = complaintAbout(field, box.value);
    box.closest(".row").querySelector(".complaint").textContent = complaint;
    box.setAttribute("aria-invalid", String(complaint !== ""));
    return !complaint;
  }

  /** A complaint goes as soon as there is no more reason for it; a new one waits until the person is done. */
  #takeInput({ target }) {
    const field = FIELDS.find(({ name }) => name === target.name);
    if (field && target.getAttribute("aria-invalid") === "true") this.#judge(field);
  }

  #takeSubmit(event) {
    event.preventDefault();
    const wrong = FIELDS.filter((field) => !this.#judge(field));
    if (wrong.length) {
      this.#form.elements[wrong[0].name].focus();
      return;
    }
    const names = ["system", ...FIELDS.map(({ name }) => name)];
    const filled = names.filter((name) => this.#form.elements[name].value.trim());
    this.#onSave(Object.fromEntries(filled.map((name) => [name, this.#form.elements[name].value.trim()])));
    this.#dialog.close();
  }
}

/** @param {import("./model_options.js").Field} field */
function makeRow({ name, label, hint, whole }) {
  const id = `option-${name}`;
  const title = make("label", "", label);
  title.htmlFor = id;
  const box = make("input", "");
  Object.assign(box, { id, name, inputMode: whole ? "text" : "decimal", placeholder: "the model’s own", autocomplete: "off" });
  const explanation = make("p", "explanation", hint);
  const complaint = make("p", "complaint");
  explanation.id = `${id}-hint`;
  complaint.id = `${id}-complaint`;
  box.setAttribute("aria-describedby", `${complaint.id} ${explanation.id}`);
  return make("div", "row", title, box, explanation, complaint);
}
