// A reply while it is streamed: a message with its status, statistics and errors.

import { MessageView } from "./message_view.js";
import { ReplyStats } from "../reply/reply_stats.js";
import { ReplyStatus } from "../reply/reply_status.js";
import { makeAlert } from "../../shared/dom.js";

export class ReplyView extends MessageView {
  status = new ReplyStatus();
  #source;
  #continuedLength; // of the source that an earlier reply wrote
  #isEmpty = true;
  /** Why the model has ended the reply, in Ollama's words; empty until then. */

  /**
   * @param {number | null} requestedAt `performance.now()` of the request; null: unknown
   * @param {{content: string, thinking?: string}} [continued] the message whose text the reply continues
   */
  constructor(requestedAt = null, { content, thinking } = { content: "" }) {
    super("assistant", content, thinking);
    this.#source = content;
    this.#continuedLength = content.length;
    this.stats = new ReplyStats(requestedAt);
    this.element.classList.add("streaming");
    this.element.setAttribute("aria-busy", "true");
  }

  /** The message's Markdown source so far. */
  get source() {
    return this.#source;
  }

  /** The part of the source that this reply wrote. */
  get newSource() {
    return this.#source.slice(this.#continuedLength);
  }

  /** Whether this reply has written nothing yet. */
  get isEmpty() {
    return this.#isEmpty;
  }

  /** @param {import("../reply/reply_stream.js").Line} line */
  addLine(line) {
    const { content = "", thinking = "" } = line.message ?? {};
    this.stats.addLine(line);
    if (line.thinking_restarted) this.dropThinking();
    if (!content && !thinking) return;
    this.#source += content;
    this.append(content, thinking);
    if (this.#isEmpty) this.status.showStreaming(this.stats);
    this.#isEmpty = false;
  }

  /** Show the reply as the server has stored it. @param {import("../../shared/api.js").Message} message */
  replace({ content, thinking = "" }) {
    if (content === this.#source) return;
    this.clear();
    this.append(content, thinking);
    this.flush();
    this.#source = content;
    if (this.#isEmpty) this.#continuedLength = content.length;
  }

  /** @param {string} message */
  addError(message) {
    this.element.append(makeAlert(message));
  }

  /** Show the reply as complete, once all its text is rendered. */
  async end() {
    this.flush();
    await this.content.whenRendered();
    this.element.classList.remove("streaming");
    this.element.removeAttribute("aria-busy");
  }
}
