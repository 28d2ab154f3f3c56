// The content of a message: replies as Markdown, others as plain text; thinking, system prompts and images.

import { StreamingText } from "./streaming_text.js";
import { Thinking } from "./thinking.js";
import { dataUrlOf } from "../composer/image_file.js";
import { StreamingMarkdown } from "../markdown/streaming_markdown.js";
import { make } from "../../shared/dom.js";

const LABELS = { user: "You", assistant: "Reply", system: "System", tool: "Tool" };

export class MessageView {
  #thinking = null;
  #body = make("div", "text");

  /** @param {string} role @param {string} content @param {string} thinking */
  constructor(role, content = "", thinking = "") {
    this.element = make("article", `message ${role}`, this.#body);
    this.element.setAttribute("aria-label", LABELS[role] ?? role);
    this.content = role === "assistant" ? this.#makeMarkdown() : this.#makeText();
    this.append(content, thinking);
    this.flush();
  }

  /**
   * @param {string} content
   * @param {string} thinking
   * @param {number} [time] when the text was generated, in milliseconds
   */
  append(content, thinking = "", time = Date.now()) {
    if (thinking) {
      this.#thinking ??= new Thinking(this.element);
      this.#thinking.append(thinking, time);
    }
    if (!content) return;
    this.#thinking?.end(time);
    this.content.append(content);
  }

  get isEmpty() {
    return this.content.isEmpty && !this.#thinking;
  }

  /** Render all text now: it is complete, or the tab is hidden. */
  flush() {
    this.#thinking?.flush();
    this.content.flush();
  }

  clear() {
    this.dropThinking();
    this.content.clear();
  }

  dropThinking() {
    this.#thinking?.remove();
    this.#thinking = null;
  }

  #makeMarkdown() {
    this.#body.classList.add("markdown");
    return new StreamingMarkdown(this.#body);
  }

  #makeText() {
    this.#body.dir = "auto";
    return new StreamingText(this.#body);
  }
}

/** A collapsed system prompt. @param {string} content @returns {HTMLElement} */
export function makeSystemMessage(content) {
  const text = make("div", "text");
  text.dir = "auto";
  const view = new StreamingText(text);
  view.append(content);
  view.flush();
  const element = make("article", "message system", make("details", "", make("summary", "", "System prompt"), text));
  element.setAttribute("aria-label", LABELS.system);
  return element;
}

/** @param {string[]} images base64 @returns {HTMLElement} */
export function makeImages(images) {
  return make("div", "images", ...images.map((base64, index) => {
    const image = make("img", "");
    image.src = dataUrlOf(base64);
    image.alt = images.length === 1 ? "Image" : `Image ${index + 1}`;
    return image;
  }));
}
