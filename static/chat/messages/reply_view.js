// A reply while it is streamed: a message with its status, statistics and errors.

import { MessageView } from "./message_view.js";
import { ReplyStats } from "../reply/reply_stats.js";
import { ReplyStatus } from "../reply/reply_status.js";
import { makeAlert } from "../../shared/dom.js";

export class ReplyView extends MessageView {
  status = new ReplyStatus();
  #source = "";

  /** @param {number | null} requestedAt `performance.now()` of the request; null: unknown */
  constructor(requestedAt = null) {
    super("assistant");
    this.stats = new ReplyStats(requestedAt);
    this.element.classList.add("streaming");
    this.element.setAttribute("aria-busy", "true");
  }

  /** The reply's Markdown source so far. */
  get source() {
    return this.#source;
  }

  /** @param {import("../reply/reply_stream.js").Line} line */
  addLine(line) {
    const { content = "", thinking = "" } = line.message ?? {};
    const wasEmpty = this.isEmpty;
    this.stats.addLine(line);
    this.#source += content;
    if (content || thinking) this.append(content, thinking);
    if (wasEmpty && !this.isEmpty) this.status.showStreaming(this.stats);
  }

  /** Show the reply as the server has stored it. @param {import("../../shared/api.js").Message} message */
  replace({ content, thinking = "" }) {
    if (content === this.#source) return;
    this.clear();
    this.append(content, thinking);
    this.flush();
    this.#source = content;
  }

  /** @param {string} message */
  addError(message) {
    this.element.append(makeAlert(message));
  }

  end() {
    this.flush();
    this.element.classList.remove("streaming");
    this.element.removeAttribute("aria-busy");
  }
}
