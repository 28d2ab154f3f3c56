// One message on the page: a reply as Markdown, all other as plain text, and the model's thinking folded away.

import { GrowingMarkdown } from "../markdown/streaming_markdown.js";
import { GrowingText } from "./streaming_text.js";
import { Thinking } from "./thinking.js";
import { make } from "../../shared/dom.js";

const SPEAKERS = { user: "You", assistant: "Reply", system: "System", tool: "Tool" };

export class MessageView {
  #thinking = null;
  #body = make("div", "text");

  /** @param {string} role @param {string} content @param {string} thinking */
  constructor(role, content = "", thinking = "") {
    this.element = make("article", `message ${role}`, this.#body);
    this.element.setAttribute("aria-label", SPEAKERS[role] ?? role);
    this.content = role === "assistant" ? this.#growMarkdown() : this.#growText();
    this.append(content, thinking);
    this.flush();
  }

  /**
   * @param {string} content
   * @param {string} thinking
   * @param {number} [time] when these words were written, in milliseconds
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

  /** Show all words now: they are complete, or nobody is looking. */
  flush() {
    this.#thinking?.flush();
    this.content.flush();
  }

  clear() {
    this.#thinking?.remove();
    this.#thinking = null;
    this.content.clear();
  }

  #growMarkdown() {
    this.#body.classList.add("markdown");
    return new GrowingMarkdown(this.#body);
  }

  #growText() {
    this.#body.dir = "auto";
    return new GrowingText(this.#body);
  }
}

/** @param {string} content @returns {HTMLElement} */
export function makeSystemMessage(content) {
  const text = make("div", "text", content);
  text.dir = "auto";
  const element = make("article", "message system", make("details", "", make("summary", "", "System prompt"), text));
  element.setAttribute("aria-label", "System");
  return element;
}

/** @param {string[]} images in base64 @returns {HTMLElement} */
export function makeImages(images) {
  return make("div", "images", ...images.map((base64, place) => {
    const picture = make("img", "");
    picture.src = dataUrlOf(base64);
    picture.alt = images.length === 1 ? "Image" : `Image ${place + 1}`;
    return picture;
  }));
}
