// A reply while it comes: a message that also shows waiting, errors in words, and how it ended.

import { make, makeAlert, makeButton } from "./elements.js";
import { MessageView } from "./message_view.js";
import { Waiting } from "./waiting.js";

const WAITING = "Waiting for the model";
const WHY_WAITING = "A large model takes a while to load.";
const RECONNECTING = "The connection was lost. Reconnecting";
const WHY_RECONNECTING = "The reply goes on in the server.";

export class ReplyView extends MessageView {
  #waiting = null;

  constructor() {
    super("assistant");
    this.element.classList.add("streaming");
    this.wait();
  }

  /** Say that the first words are awaited, unless there are some. */
  wait() {
    this.#stopWaiting();
    if (this.isEmpty) this.#startWaiting(WAITING, WHY_WAITING);
  }

  /** Say that the connection is being made again; each attempt says so, the seconds count from the first. */
  reconnect() {
    if (this.#waiting?.sentence === RECONNECTING) return;
    this.#stopWaiting();
    this.#startWaiting(RECONNECTING, WHY_RECONNECTING);
  }

  /** @param {string} content @param {string} thinking */
  append(content, thinking = "") {
    if (content || thinking) this.#stopWaiting();
    super.append(content, thinking);
  }

  /** Forget all words and errors: the reply is shown again from its beginning. */
  clear() {
    super.clear();
    this.#removeErrors();
  }

  /** Take the errors back before another attempt; with nothing said, nothing is left. */
  dismiss() {
    this.#removeErrors();
    if (this.isEmpty) this.element.remove();
  }

  /** @param {string} sentence */
  addError(sentence) {
    this.element.append(makeAlert(sentence));
  }

  /** @param {string} sentence */
  addNote(sentence) {
    this.element.append(make("p", "note", sentence));
  }

  /** @param {() => void} onRetry */
  offerRetry(onRetry) {
    const button = makeButton("Try again", onRetry);
    button.classList.add("retry");
    (this.element.querySelector(".alert:last-of-type") ?? this.element).append(button);
  }

  end() {
    this.flush();
    this.#stopWaiting();
    this.element.classList.remove("streaming");
  }

  #removeErrors() {
    for (const alert of this.element.querySelectorAll(".alert")) alert.remove();
  }

  #startWaiting(sentence, explanation) {
    this.#waiting = new Waiting(sentence, explanation);
    this.element.append(this.#waiting.element);
  }

  #stopWaiting() {
    this.#waiting?.remove();
    this.#waiting = null;
  }
}
