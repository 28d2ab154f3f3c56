// The model selector: lists Ollama's models, remembers the choice, and reports missing models.

import { fetchModels } from "../../shared/api.js";
import { localStore } from "../../shared/storage.js";

const LAST_MODEL_KEY = "model";
const UNITS = ["B", "kB", "MB", "GB", "TB"];
const VISION_FAMILIES = /^(clip|mllama|llama4|mistral3|gemma4|qwen\d+(\.\d+)?vl.*)$/i;
const VISION_NAMES = /llava|vision|[-:\d]vl\b|moondream|minicpm-v/i;

/** @typedef {import("../../shared/api.js").Model} Model */

export class ModelPicker {
  #select;
  #onError;
  #onChange;
  #models = [];
  #requested = "";
  #isLoaded = false;

  /**
   * @param {HTMLSelectElement} select
   * @param {object} handlers
   * @param {(message: string | null) => void} handlers.onError null: no error
   * @param {(model: string, byUser: boolean) => void} handlers.onChange
   */
  constructor(select, { onError, onChange }) {
    this.#select = select;
    this.#onError = onError;
    this.#onChange = onChange;
    select.addEventListener("change", () => this.#handleChange());
  }

  /** Name of the selected model; empty if there is none. @returns {string} */
  get model() {
    return this.#select.value;
  }

  /** @returns {Model | undefined} */
  get details() {
    return this.#models.find(({ name }) => name === this.model);
  }

  /** Select a conversation's model. @param {string | undefined} model undefined: the last one chosen */
  select(model) {
    this.#requested = model ?? "";
    if (this.#isLoaded) this.#render();
  }

  /** Load the list of models. */
  async load() {
    try {
      this.#models = await fetchModels();
      this.#isLoaded = true;
      this.#render();
    } catch (error) {
      this.#models = [];
      this.#render();
      this.#onError(error.status ? "No models available. Start Ollama, then refresh." : error.message);
    }
  }

  #render() {
    const models = this.#models;
    const preferred = this.#requested || localStore.get(LAST_MODEL_KEY);
    const selected = models.find(({ name }) => name === preferred) ?? models.find(supportsChat) ?? models[0];
    this.#select.replaceChildren(...models.map((model) => new Option(describe(model), model.name)));
    if (!selected) this.#select.add(new Option("No model", ""));
    this.#select.value = selected?.name ?? "";
    this.#select.disabled = !selected;
    this.#onError(this.#errorMessage(selected));
    this.#onChange(this.model, false);
  }

  #errorMessage(selected) {
    if (!selected) return "No models installed. Run `ollama pull llama3.2`, then refresh.";
    const requested = this.#requested;
    if (!requested || selected.name === requested) return null;
    return `${requested} is no longer available. Using ${selected.name} instead. To restore it, run \`ollama pull ${requested}\`, then refresh.`;
  }

  #handleChange() {
    this.#requested = this.model;
    localStore.set(LAST_MODEL_KEY, this.model);
    this.#onError(null);
    this.#onChange(this.model, true);
  }
}

/** Whether a model can chat: Ollama lists embedding models, too. @param {Model} model */
function supportsChat({ name, details, capabilities }) {
  if (capabilities?.length) return capabilities.includes("completion");
  return !/embed|bert/i.test(`${name} ${details?.family}`);
}

/** Guesses from family and name where an older Ollama reports no capabilities. @param {Model | undefined} model @returns {boolean | null} null: unknown */
export function supportsImages(model) {
  if (!model) return null;
  if (model.capabilities?.length) return model.capabilities.includes("vision");
  const families = [model.details?.family ?? "", ...(model.details?.families ?? [])];
  return families.some((family) => VISION_FAMILIES.test(family)) || VISION_NAMES.test(model.name) || null;
}

/** Name, parameter count and size on disk. @param {Model} model @returns {string} */
function describe({ name, details, size }) {
  return [name, details?.parameter_size, size ? formatBytes(size) : ""].filter(Boolean).join(" · ");
}

/** @param {number} count */
function formatBytes(count) {
  const power = Math.min(Math.floor(Math.log10(count) / 3), UNITS.length - 1);
  const number = count / 1000 ** power;
  return `${number.toFixed(number < 10 && power ? 1 : 0)} ${UNITS[power]}`;
}
