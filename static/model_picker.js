// The list of models: offers them, remembers the choice for each conversation, and says what to do when there is none.

import { fetchModels } from "./api.js";
import { canChat, describe } from "./model_facts.js";
import { recall, remember } from "./storage.js";

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

  /** What is known about the chosen model. @returns {import("./api.js").Model | undefined} */
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
