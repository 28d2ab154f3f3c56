// The settings dialog of a conversation: shows, validates and saves its settings.

import { CONTEXT_FULL, FIELDS, validate } from "./model_options.js";
import { WindowField } from "./window_field.js";
import { make } from "../../shared/dom.js";

const DEFAULT = "Model default";
const WINDOW = "num_ctx";

export class SettingsDialog {
  #dialog;
  #form;
  #onSave;
  #window = new WindowField(FIELDS.find(({ name }) => name === WINDOW));

  /** @param {HTMLDialogElement} dialog @param {(settings: import("./model_options.js").Settings) => void} onSave */
  constructor(dialog, onSave) {
    this.#dialog = dialog;
    this.#form = dialog.querySelector("form");
    this.#onSave = onSave;
    const rows = FIELDS.map((field) => (field.name === WINDOW ? this.#window.element : makeRow(field)));
    rows.splice(FIELDS.findIndex(({ name }) => name === WINDOW) + 1, 0, makeContextFullRow());
    dialog.querySelector("#options").append(...rows);
    this.#form.addEventListener("submit", (event) => this.#handleSubmit(event));
    this.#form.addEventListener("input", (event) => this.#handleInput(event));
    dialog.querySelector("#settings-cancel").addEventListener("click", () => dialog.close());
    dialog.querySelector("#settings-reset").addEventListener("click", () => this.#fill({}));
  }

  /**
   * @param {import("./model_options.js").Settings} settings
   * @param {import("../../shared/api.js").Model | undefined} model
   */
  open(settings, model) {
    this.#fill(settings);
    this.#window.show(model);
    this.#dialog.showModal();
    this.#form.elements.system.focus();
  }

  close() {
    this.#dialog.close();
  }

  #fill(settings) {
    this.#form.elements.system.value = settings.system ?? "";
    this.#form.elements.context_full.value = settings.context_full ?? "";
    for (const field of FIELDS) {
      const control = field.name === WINDOW ? this.#window : this.#form.elements[field.name];
      control.value = settings[field.name] ?? "";
      this.#validate(field);
    }
  }

  /** Validate a field and show its error. @returns {boolean} whether it is valid */
  #validate(field) {
    const input = this.#form.elements[field.name];
    const error = validate(field, input.value);
    input.closest(".row").querySelector(".field-error").textContent = error;
    input.setAttribute("aria-invalid", String(error !== ""));
    return !error;
  }

  /** Clear an error as soon as the input is valid, but show new errors only on submit. */
  #handleInput({ target }) {
    const field = FIELDS.find(({ name }) => name === target.name);
    if (field && target.getAttribute("aria-invalid") === "true") this.#validate(field);
  }

  #handleSubmit(event) {
    event.preventDefault();
    const invalid = FIELDS.filter((field) => !this.#validate(field));
    if (invalid.length) {
      this.#form.elements[invalid[0].name].focus();
      return;
    }
    const names = ["system", "context_full", ...FIELDS.map(({ name }) => name)];
    const set = names.filter((name) => this.#form.elements[name].value.trim());
    this.#onSave(Object.fromEntries(set.map((name) => [name, this.#form.elements[name].value.trim()])));
    this.#dialog.close();
  }
}

function makeContextFullRow() {
  const label = make("label", "", "When the window is full");
  const select = make("select", "");
  const hint = make("p", "field-hint", "Messages that are left out stay in the chat, but the model does not see them.");
  label.htmlFor = select.id = "context-full";
  hint.id = "context-full-hint";
  select.name = "context_full";
  select.setAttribute("aria-describedby", hint.id);
  select.append(new Option(CONTEXT_FULL.cut, ""), new Option(CONTEXT_FULL.stop, "stop"));
  return make("div", "row", label, select, hint);
}

/** @param {import("./model_options.js").Field} field */
function makeRow({ name, label, hint, isInteger }) {
  const id = `option-${name}`;
  const labelElement = make("label", "", label);
  labelElement.htmlFor = id;
  const input = make("input", "");
  Object.assign(input, { id, name, inputMode: isInteger ? "text" : "decimal", placeholder: DEFAULT, autocomplete: "off" });
  const hintElement = make("p", "field-hint", hint);
  const error = make("p", "field-error");
  hintElement.id = `${id}-hint`;
  error.id = `${id}-error`;
  input.setAttribute("aria-describedby", `${error.id} ${hintElement.id}`);
  return make("div", "row", labelElement, input, hintElement, error);
}
