// The list of models: offers them, remembers the choice, and says what to do when there is none.

import { fetchModels } from "./api.js";
import { recall, remember } from "./storage.js";

const CHOICE = "model";

export class ModelPicker {
  #select;
  #onTrouble;

  /**
   * @param {HTMLSelectElement} select
   * @param {(sentence: string | null) => void} onTrouble told why there is no model; null once there is one
   */
  constructor(select, onTrouble) {
    this.#select = select;
    this.#onTrouble = onTrouble;
    select.addEventListener("change", () => remember(CHOICE, select.value));
  }

  /** The chosen model's name, empty if there is none. @returns {string} */
  get model() {
    return this.#select.value;
  }

  /** Ask which models there are. */
  async load() {
    let trouble = null;
    try {
      const models = await fetchModels();
      this.#offer(models);
      if (!models.length) trouble = "There is no model yet. Run `ollama pull llama3.2`, then look again.";
    } catch (error) {
      this.#offer([]);
      trouble = error.status ? "No model answers. Start Ollama, then look again." : error.message;
    }
    this.#onTrouble(trouble);
  }

  /** @param {import("./api.js").Model[]} models */
  #offer(models) {
    const choice = this.#select.value || recall(CHOICE);
    const chosen = models.find(({ name }) => name === choice) ?? models.find(canChat) ?? models[0];
    this.#select.replaceChildren(...models.map((model) => new Option(label(model), model.name)));
    if (!chosen) this.#select.add(new Option("No model", ""));
    this.#select.value = chosen?.name ?? "";
    this.#select.disabled = !chosen;
  }
}

/** Embedding models are listed too, and cannot chat. @param {import("./api.js").Model} model */
function canChat({ name, details }) {
  return !/embed|bert/i.test(`${name} ${details?.family}`);
}

/** @param {import("./api.js").Model} model */
function label({ name, details }) {
  return details?.parameter_size ? `${name} (${details.parameter_size})` : name;
}
