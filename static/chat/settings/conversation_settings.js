// The settings of the conversation on the page, and the system prompt as the message that the server is sent.

import { optionsOf } from "./model_options.js";

const NO_LONGER = "The instructions above no longer apply.";

export class ChatSettings {
  #list;
  #appID;

  /** @param {import("../sidebar/conversation_store.js").ConversationList} list @param {string} appID */
  constructor(list, appID) {
    this.#list = list;
    this.#appID = appID;
  }

  /** @returns {import("./model_options.js").Settings} */
  get values() {
    return this.#list.open(this.#appID).settings ?? {};
  }

  set values(settings) {
    this.#list.change(this.#appID, { settings });
  }

  /** Ollama's options for the next reply. @returns {Object<string, number>} */
  get options() {
    return optionsOf(this.values);
  }

  /** What is to be recorded before the next prompt: the system prompt, if the server has another. */
  get systemMessages() {
    const { settings, recorded = "" } = this.#list.open(this.#appID);
    const wanted = settings?.system?.trim() ? settings.system : "";
    if (wanted === recorded) return [];
    return [{ role: "system", content: wanted || NO_LONGER }];
  }

  /** Note which system prompt has been recorded. @param {{role: string, content: string}[]} messages sent or shown */
  takeRecorded(messages) {
    const last = messages.findLast(({ role }) => role === "system");
    if (last) this.#note(last.content === NO_LONGER ? "" : last.content);
  }

  /**
   * Learn from the conversation as the server has it, and put it into the list if it is not there yet.
   *
   * @param {import("../../shared/api.js").History} history
   */
  takeHistory({ messages, before }) {
    const asked = messages.find(({ role }) => role === "user");
    if (asked && !this.#list.find(this.#appID)) this.#list.touch(this.#appID, asked.content);
    this.takeRecorded(messages);
    if (before === null && messages.every(({ role }) => role !== "system")) this.#note("");
  }

  /** @param {string} recorded */
  #note(recorded) {
    if (recorded !== (this.#list.open(this.#appID).recorded ?? "")) this.#list.change(this.#appID, { recorded });
  }
}
