// The list of models: offers them, remembers the choice for each conversation, and says what to do when there is none.

import { fetchModels } from "../../shared/api.js";
import { recall, remember } from "../../shared/storage.js";

const CHOICE = "model";

export class ModelPicker {
  #select;
  #onTrouble;
  #onChange;
  #models = [];
  #wanted = "";
  #loaded = false;

  /**
   * @param {HTMLSelectElement} select
   * @param {object} handlers
   * @param {(sentence: string | null) => void} handlers.onTrouble told what is wrong; null once nothing is
   * @param {(model: string, chosen: boolean) => void} handlers.onChange told the model, and whether a person chose it
   */
  constructor(select, { onTrouble, onChange }) {
    this.#select = select;
    this.#onTrouble = onTrouble;
    this.#onChange = onChange;
    select.addEventListener("change", () => this.#takeChoice());
  }

  /** The chosen model's name, empty if there is none. @returns {string} */
  get model() {
    return this.#select.value;
  }

  /** What is known about the chosen model. @returns {import("../../shared/api.js").Model | undefined} */
  get facts() {
    return this.#models.find(({ name }) => name === this.model);
  }

  /** Choose the model of a conversation. @param {string | undefined} model none: the one that was chosen last */
  want(model) {
    this.#wanted = model ?? "";
    if (this.#loaded) this.#choose();
  }

  /** Ask which models there are. */
  async load() {
    try {
      this.#models = await fetchModels();
      this.#loaded = true;
      this.#choose();
    } catch (error) {
      this.#models = [];
      this.#choose();
      this.#onTrouble(error.status ? "No model answers. Start Ollama, then look again." : error.message);
    }
  }

  #choose() {
    const models = this.#models;
    const choice = this.#wanted || recall(CHOICE);
    const chosen = models.find(({ name }) => name === choice) ?? models.find(canChat) ?? models[0];
    this.#select.replaceChildren(...models.map((model) => new Option(describe(model), model.name)));
    if (!chosen) this.#select.add(new Option("No model", ""));
    this.#select.value = chosen?.name ?? "";
    this.#select.disabled = !chosen;
    this.#onTrouble(this.#trouble(chosen));
    this.#onChange(this.model, false);
  }

  #trouble(chosen) {
    if (!chosen) return "There is no model yet. Run `ollama pull llama3.2`, then look again.";
    if (!this.#wanted || chosen.name === this.#wanted) return null;
    return `${this.#wanted} is not there any more. ${chosen.name} goes on, or run \`ollama pull ${this.#wanted}\`, then look again.`;
  }

  #takeChoice() {
    this.#wanted = this.model;
    remember(CHOICE, this.model);
    this.#onTrouble(null);
    this.#onChange(this.model, true);
  }
}

const UNITS = ["B", "kB", "MB", "GB", "TB"];
const SEEING_FAMILIES = /^(clip|mllama|llama4|mistral3|gemma4|qwen\d+(\.\d+)?vl.*)$/i;
const SEEING_NAMES = /llava|vision|[-:\d]vl\b|moondream|minicpm-v/i;

/** Embedding models are listed too, and cannot chat. @param {import("../../shared/api.js").Model} model */
export function canChat({ name, details, capabilities }) {
  if (capabilities?.length) return capabilities.includes("completion");
  return !/embed|bert/i.test(`${name} ${details?.family}`);
}

/** @param {import("../../shared/api.js").Model | undefined} model @returns {boolean | null} null: there is no telling */
export function takesImages(model) {
  if (!model) return null;
  if (model.capabilities?.length) return model.capabilities.includes("vision");
  const families = [model.details?.family ?? "", ...(model.details?.families ?? [])];
  return families.some((family) => SEEING_FAMILIES.test(family)) || SEEING_NAMES.test(model.name) || null;
}

/** Name, parameters and size on disk. @param {import("../../shared/api.js").Model} model @returns {string} */
export function describe({ name, details, size }) {
  return [name, details?.parameter_size, size ? bytes(size) : ""].filter(Boolean).join(" · ");
}

/** @param {number} count */
function bytes(count) {
  const power = Math.min(Math.floor(Math.log10(count) / 3), UNITS.length - 1);
  const number = count / 1000 ** power;
  return `${number.toFixed(number < 10 && power ? 1 : 0)} ${UNITS[power]}`;
}
