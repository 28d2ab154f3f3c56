// The choice of the model's window (Ollama's num_ctx): usual sizes with their memory, or any number.

import { formatBytes } from "./model_picker.js";
import { fetchWindow } from "../../shared/api.js";
import { make } from "../../shared/dom.js";

const SMALLEST = 2048; // tokens, like the others
const LARGEST_WITHOUT_LIMIT = 131_072; // the largest choice if it is not known what the model was trained for
const OTHER = "other";

/** @typedef {import("../../shared/api.js").ModelWindow} ModelWindow */

export class WindowField {
  #field;
  #select = make("select", "");
  #input = make("input", "");
  #hint = make("p", "field-hint");
  /** The model whose window is shown, to know its answer. @type {string | undefined} */
  #model;
  /** @type {number | null} */
  #trained = null;

  /** @param {import("./model_options.js").Field} field */
  constructor(field) {
    this.#field = field;
    const id = `option-${field.name}`;
    const label = make("label", "", field.label);
    const error = make("p", "field-error");
    label.htmlFor = this.#select.id = id;
    this.#hint.id = `${id}-hint`;
    error.id = `${id}-error`;
    this.#select.setAttribute("aria-describedby", this.#hint.id);
    Object.assign(this.#input, { name: field.name, inputMode: "numeric", placeholder: "Tokens", autocomplete: "off" });
    this.#input.setAttribute("aria-label", `${field.label} in tokens`);
    this.#input.setAttribute("aria-describedby", `${error.id} ${this.#hint.id}`);
    this.#select.addEventListener("change", () => this.#handleChoice());
    this.element = make("div", "row", label, this.#select, this.#input, this.#hint, error);
    this.value = "";
  }

  /** The number of tokens as text; empty: the model's default. @returns {string} */
  get value() {
    return this.#input.value;
  }

  set value(value) {
    this.#input.value = value;
    const choice = [...this.#select.options].find((option) => option.value === value);
    this.#select.value = choice ? value : OTHER;
    this.#input.hidden = this.#select.value !== OTHER;
  }

  /** Offer what the model can have. @param {import("../../shared/api.js").Model | undefined} model */
  async show(model) {
    this.#model = model?.name;
    this.#offer({ window: null, trained: null, loaded_window: null, memory_bytes: null, bytes_per_token: null }, model);
    if (!model) return;
    const found = await fetchWindow(model.name).catch(() => null); // the sizes can be chosen without it
    if (found && this.#model === model.name) this.#offer(found, model);
  }

  /** @param {ModelWindow} window @param {import("../../shared/api.js").Model | undefined} model */
  #offer(window, model) {
    this.#trained = window.trained ?? model?.details?.context_length ?? null;
    const isOther = this.#select.value === OTHER;
    const { value } = this;
    const label = window.window ? `Model default (${describe(window.window, window)})` : "Model default";
    const sizes = makeSizes(this.#trained).map((tokens) => new Option(describe(tokens, window), String(tokens)));
    this.#select.replaceChildren(new Option(label, ""), ...sizes, new Option("Other…", OTHER));
    this.value = value;
    if (isOther && document.activeElement === this.#input) this.#showInput(); // do not hide it while it is written in
    const most = this.#trained ? ` This model holds at most ${format(this.#trained)} tokens.` : "";
    this.#hint.textContent = this.#field.hint + most;
  }

  #handleChoice() {
    if (this.#select.value === OTHER) {
      this.#showInput();
      this.#input.focus();
    } else this.value = this.#select.value;
    this.#input.dispatchEvent(new Event("input", { bubbles: true })); // an error may have gone
  }

  #showInput() {
    this.#select.value = OTHER;
    this.#input.hidden = false;
  }
}

/** Powers of two, and at last the most that the model was trained for. @param {number | null} trained */
function makeSizes(trained) {
  const sizes = [];
  for (let size = SMALLEST; size < (trained ?? 2 * LARGEST_WITHOUT_LIMIT); size *= 2) sizes.push(size);
  return trained ? [...sizes, trained] : sizes;
}

/** Tokens, with the memory that the model takes in all then, if it is known. @param {number} tokens @param {ModelWindow} known */
function describe(tokens, { loaded_window: loaded, memory_bytes: memory, bytes_per_token: perToken }) {
  const total = loaded && memory && perToken ? memory + (tokens - loaded) * perToken : 0;
  return `${format(tokens)} tokens${total > 0 ? `, about ${formatBytes(total)}` : ""}`;
}

/** @param {number} count */
function format(count) {
  return count.toLocaleString("en");
}
