// The model selector: lists Ollama's models, remembers the choice, and asks for another model where one is missing.

import { fetchModels } from "../../shared/api.js";
import { localStore } from "../../shared/storage.js";

const LAST_MODEL_KEY = "model";
const POLL_INTERVAL = 5000; // milliseconds between two requests while no Ollama lists models
const MAX_CHOICES = 5;
const UNITS = ["B", "kB", "MB", "GB", "TB"];
const VISION_FAMILIES = /^(clip|mllama|llama4|mistral3|gemma4|qwen\d+(\.\d+)?vl.*)$/i;
const VISION_NAMES = /llava|vision|[-:\d]vl\b|moondream|minicpm-v/i;

const STAND_IN =
  "No Ollama answers yet. Until one does, a toy replies: SmolLM2-135M, whose answers are often wrong. Start Ollama, and its models appear here.";
const OLLAMA_FOUND = "Ollama answers now: its models are used from here on.";

/**
 * @typedef {import("../../shared/api.js").Model} Model
 *
 * @typedef {object} PickerState what to tell the user
 * @property {string} error empty: none
 * @property {string[]} choices models to choose from, because the conversation's model is missing
 * @property {string} notice empty: none
 */

export class ModelPicker {
  #select;
  #onState;
  #onChange;
  #models = [];
  #requested = "";
  #isLoaded = false;
  #failure = "";
  #found = false;
  #shown = "";
  #pollTimer = 0;

  /**
   * @param {HTMLSelectElement} select
   * @param {object} handlers
   * @param {(state: PickerState) => void} handlers.onState called when the state has changed
   * @param {(model: string, byUser: boolean) => void} handlers.onChange
   */
  constructor(select, { onState, onChange }) {
    this.#select = select;
    this.#onState = onState;
    this.#onChange = onChange;
    select.addEventListener("change", () => this.choose(select.value));
  }

  /** Name of the selected model; empty if there is none, or the conversation's is missing. @returns {string} */
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

  /** Select a model for the user. @param {string} model */
  choose(model) {
    this.#requested = model;
    this.#found = false;
    localStore.set(LAST_MODEL_KEY, model);
    this.#select.value = model;
    this.#render();
    this.#onChange(this.model, true);
  }

  /** Lead the user to the selector, because a reply needs a model. */
  ask() {
    this.#shown = "";
    this.#showState(); // announced again
    this.#select.focus();
  }

  /** The user has read the notice that Ollama answers. */
  dismiss() {
    this.#found = false;
    this.#showState();
  }

  /** Load the list of models, and go on until an Ollama has any. */
  async load() {
    clearTimeout(this.#pollTimer);
    const before = JSON.stringify(this.#models);
    const stoodIn = this.#standsIn;
    try {
      this.#models = await fetchModels();
      this.#failure = "";
      this.#found ||= stoodIn && !this.#standsIn;
    } catch (error) {
      // The last list, if there is one, serves until the next attempt: Ollama may be restarting.
      this.#failure = error.status === 503 ? "No models available. Start Ollama, then refresh." : error.message;
    }
    const changed = !this.#isLoaded || JSON.stringify(this.#models) !== before;
    this.#isLoaded = true;
    if (changed) this.#render();
    else this.#showState();
    clearTimeout(this.#pollTimer); // of a load that began meanwhile
    if (this.#failure || this.#standsIn || !this.#models.length) {
      this.#pollTimer = setTimeout(() => this.#poll(), POLL_INTERVAL);
    }
  }

  #poll() {
    if (document.visibilityState === "visible") this.load();
    else document.addEventListener("visibilitychange", () => this.load(), { once: true });
  }

  get #standsIn() {
    return this.#models.some((model) => model.stand_in);
  }

  get #isMissing() {
    return this.#requested !== "" && this.#models.every(({ name }) => name !== this.#requested);
  }

  #render() {
    const models = this.#models;
    const preferred = this.#requested || localStore.get(LAST_MODEL_KEY);
    const usable = models.find(supportsChat) ?? models[0];
    const selected = models.find(({ name }) => name === preferred) ?? (this.#isMissing ? undefined : usable);
    this.#select.replaceChildren(...models.map((model) => new Option(describe(model), model.name)));
    if (!selected) this.#select.prepend(makePlaceholder(models.length ? "Choose a model" : "No model"));
    this.#select.value = selected?.name ?? "";
    this.#select.disabled = !models.length;
    this.#showState();
    this.#onChange(this.model, false);
  }

  #showState() {
    const notice = this.#standsIn ? STAND_IN : this.#found ? OLLAMA_FOUND : "";
    const state = { error: this.#error, choices: this.#choices, notice };
    const text = JSON.stringify(state);
    if (text !== this.#shown) this.#onState(state);
    this.#shown = text;
  }

  get #error() {
    if (!this.#models.length) return this.#failure || "No models installed. Run `ollama pull llama3.2`, then refresh.";
    return this.#isMissing ? `${this.#requested} is no longer available. Choose another model for this chat:` : "";
  }

  get #choices() {
    if (!this.#isMissing) return [];
    return this.#models.filter(supportsChat).slice(0, MAX_CHOICES).map(({ name }) => name);
  }
}

/** @param {string} text */
function makePlaceholder(text) {
  const option = new Option(text, "");
  option.disabled = true;
  return option;
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
function describe({ name, details, size, stand_in: standIn }) {
  return [name, standIn && "toy", details?.parameter_size, size && formatBytes(size)].filter(Boolean).join(" · ");
}

/** @param {number} count */
export function formatBytes(count) {
  const power = Math.min(Math.floor(Math.log10(count) / 3), UNITS.length - 1);
  const number = count / 1000 ** power;
  return `${number.toFixed(number < 10 && power ? 1 : 0)} ${UNITS[power]}`;
}
