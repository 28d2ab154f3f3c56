// One message on the page: its text, and the model's thinking folded away.

import { make } from "./elements.js";
import { GrowingText } from "./growing_text.js";

const SPEAKERS = { user: "You", assistant: "Reply", system: "System", tool: "Tool" };

export class MessageView {
  #thinking = null;
  #body = make("div", "text");

  /** @param {string} role @param {string} content @param {string} thinking */
  constructor(role, content = "", thinking = "") {
    this.element = make("article", `message ${role}`, this.#body);
    this.element.setAttribute("aria-label", SPEAKERS[role] ?? role);
    this.content = new GrowingText(this.#body);
    this.append(content, thinking);
    this.flush();
  }

  /** @param {string} content @param {string} thinking */
  append(content, thinking = "") {
    if (thinking) {
      this.#thinking ??= this.#addThinking();
      this.#thinking.append(thinking);
    }
    if (content) this.content.append(content);
  }

  get isEmpty() {
    return this.content.isEmpty && !this.#thinking;
  }

  flush() {
    this.#thinking?.flush();
    this.content.flush();
  }

  clear() {
    this.#thinking?.clear();
    this.content.clear();
  }

  #addThinking() {
    const text = make("div", "text");
    this.element.prepend(make("details", "thinking", make("summary", "", "Thinking"), text));
    return new GrowingText(text);
  }
}
