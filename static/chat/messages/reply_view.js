// A reply while it comes: a message that also shows how its connection stands, errors in words, and how it ended.

import { MessageView } from "./message_view.js";
import { Figures } from "../reply/reply_stats.js";
import { ReplyStatus } from "../reply/reply_status.js";
import { makeAlert } from "../../shared/dom.js";

export class ReplyView extends MessageView {
  status = new ReplyStatus();
  #source = "";

  /** @param {number | null} asked when it was asked for, as performance.now(); null if it is only looked at */
  constructor(asked = null) {
    super("assistant");
    this.figures = new Figures(asked);
    this.element.classList.add("streaming");
    this.element.setAttribute("aria-busy", "true");
  }

  /** What was said so far, as the model wrote it. */
  get source() {
    return this.#source;
  }

  /** @param {import("../reply/reply_stream.js").Line} line */
  take(line) {
    const { content = "", thinking = "" } = line.message ?? {};
    const silent = this.isEmpty;
    this.figures.take(line);
    this.#source += content;
    if (content || thinking) this.append(content, thinking);
    if (silent && !this.isEmpty) this.status.stream(this.figures);
  }

  /** Show the reply as the server keeps it. @param {import("../../shared/api.js").Message} message */
  replace({ content, thinking = "" }) {
    if (content === this.#source) return;
    this.clear();
    this.append(content, thinking);
    this.flush();
    this.#source = content;
  }

  /** @param {string} sentence */
  addError(sentence) {
    this.element.append(makeAlert(sentence));
  }

  end() {
    this.flush();
    this.element.classList.remove("streaming");
    this.element.removeAttribute("aria-busy");
  }
}
