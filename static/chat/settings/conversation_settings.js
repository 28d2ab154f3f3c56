// The settings of one conversation, and the system message to send when the system prompt has changed.

import { toOptions } from "./model_options.js";

const RESET_INSTRUCTIONS = "The instructions above no longer apply.";

export class ConversationSettings {
  #store;
  #appID;

  /** @param {import("../sidebar/conversation_store.js").ConversationStore} store @param {string} appID */
  constructor(store, appID) {
    this.#store = store;
    this.#appID = appID;
  }

  /** @returns {import("./model_options.js").Settings} */
  get values() {
    return this.#store.getOrCreate(this.#appID).settings ?? {};
  }

  set values(settings) {
    this.#store.update(this.#appID, { settings });
  }

  /** Ollama's options for the next reply. @returns {Object<string, number>} */
  get options() {
    return toOptions(this.values);
  }

  /** What happens when the conversation has outgrown the model's window. @returns {"cut" | "stop"} */
  get contextFull() {
    return this.values.context_full === "stop" ? "stop" : "cut";
  }

  /** The messages to record before the next prompt: the system prompt, if the server has a different one. */
  get systemMessages() {
    const { settings, recordedSystemPrompt = "" } = this.#store.getOrCreate(this.#appID);
    const current = settings?.system?.trim() ? settings.system : "";
    if (current === recordedSystemPrompt) return [];
    return [{ role: "system", content: current || RESET_INSTRUCTIONS }];
  }

  /** Remember the system prompt that the server has recorded. @param {{role: string, content: string}[]} messages */
  handleRecorded(messages) {
    const last = messages.findLast(({ role }) => role === "system");
    if (last) this.#setRecorded(last.content === RESET_INSTRUCTIONS ? "" : last.content);
  }

  /**
   * Update the store from the server's history, and list the conversation if it is missing.
   *
   * @param {import("../../shared/api.js").History} history
   */
  handleHistory({ messages, before }) {
    const prompt = messages.find(({ role }) => role === "user");
    if (prompt && !this.#store.find(this.#appID)) this.#store.touch(this.#appID, prompt.content);
    this.handleRecorded(messages);
    if (before === null && messages.every(({ role }) => role !== "system")) this.#setRecorded("");
  }

  /** @param {string} recordedSystemPrompt */
  #setRecorded(recordedSystemPrompt) {
    const { recordedSystemPrompt: previous = "" } = this.#store.getOrCreate(this.#appID);
    if (recordedSystemPrompt !== previous) this.#store.update(this.#appID, { recordedSystemPrompt });
  }
}
