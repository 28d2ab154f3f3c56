// One entry of the transcript: a message with its status line and action buttons.

import { TextEditor } from "./text_editor.js";
import { make, makeIconButton } from "../../shared/dom.js";
import { copyText } from "../../shared/polyfills.js";

const COPY_ICON = "M7 7V4.5A1.5 1.5 0 0 1 8.5 3h7A1.5 1.5 0 0 1 17 4.5v7a1.5 1.5 0 0 1-1.5 1.5H13M4.5 7h7A1.5 1.5 0 0 1 13 8.5v7a1.5 1.5 0 0 1-1.5 1.5h-7A1.5 1.5 0 0 1 3 15.5v-7A1.5 1.5 0 0 1 4.5 7z";
const EDIT_ICON = "M12.5 4.5l3 3M4 16l.8-3.8L13.2 3.8a1.4 1.4 0 0 1 2 0l1 1a1.4 1.4 0 0 1 0 2L7.8 15.2z";
const REGENERATE_ICON = "M16.5 10a6.5 6.5 0 1 1-2-4.7M16.5 3v3.5H13";
const FEEDBACK_DURATION = 2000; // milliseconds
const LEFT_OUT = "Too long for the model's window; it is not sent.";

/** @typedef {import("../../shared/api.js").Message} Message */

export class MessageItem {
  /** Id of the message; null until the server has stored it or begun its reply. @type {string | null} */
  id = null;
  /** Id of the reply that was streamed to this page: the message's, or that of one that continues it. @type {string | null} */
  replyId = null;
  /** Sequence number; null until the server has stored it. @type {number | null} */
  seq = null;
  /** The stored message; null until the server has stored it. @type {Message | null} */
  message = null;
  /** The view of a reply that was streamed to this page. @type {import("./reply_view.js").ReplyView | null} */
  view = null;
  /** Settles when the text of a message from the history is rendered. @type {Promise<void>} */
  rendered = Promise.resolve();
  /** Whether the reply is being streamed: its text and errors then come from the stream only. */
  isStreaming = false;
  /** The code of the error with which the reply failed; empty if it has none. */
  errorCode = "";
  /** The stored text that is shown; null: text of a stream. */
  #stored = null;
  #content;
  #source;
  #copy = makeIconButton("Copy", COPY_ICON);
  #edit = makeIconButton("Edit", EDIT_ICON);
  #regenerate = makeIconButton("Regenerate", REGENERATE_ICON);
  #note = null;
  #footer;

  /**
   * @param {string} role
   * @param {HTMLElement} content
   * @param {() => string} source returns the message's source text
   * @param {import("../reply/reply_status.js").ReplyStatus} status
   */
  constructor(role, content, source, status) {
    this.role = role;
    this.status = status;
    this.#content = content;
    this.#source = source;
    const actions = make("div", "actions", this.#copy, this.#edit, this.#regenerate);
    this.#footer = make("div", "message-footer", status.element, actions);
    this.element = make("div", `message-item ${role}`, content, this.#footer);
    this.#copy.addEventListener("click", () => this.#copyText());
    this.setActions({});
  }

  /** @returns {string} */
  get source() {
    return this.#source();
  }

  /** Set the message as the server has stored it. @param {Message} message */
  assign(message) {
    this.id = message.id;
    this.seq = message.seq;
    this.message = message;
    this.#showLeftOut(Boolean(message.left_out));
    if (this.isStreaming) return;
    this.view?.replace(message);
    this.#stored = message.content;
  }

  /** @param {boolean} isLeftOut whether the model is never sent the message */
  #showLeftOut(isLeftOut) {
    if (isLeftOut === (this.#note !== null)) return;
    this.#note?.remove();
    this.#note = isLeftOut ? make("p", "message-note", LEFT_OUT) : null;
    if (this.#note) this.#footer.prepend(this.#note);
  }

  /** Show a reply while it is streamed. @param {string} replyId */
  startStreaming(replyId) {
    this.id ??= replyId;
    this.replyId = replyId;
    this.isStreaming = true;
    this.#stored = null;
  }

  /** Whether the stored text has changed since it was shown: a reply continued it elsewhere. @param {Message} message */
  isOutdated({ content }) {
    return this.#stored !== null && this.#stored !== content;
  }

  /**
   * Show the buttons whose actions are given.
   *
   * @param {object} actions
   * @param {(text: string) => void} [actions.onEdit]
   * @param {() => void} [actions.onRegenerate]
   */
  setActions({ onEdit, onRegenerate }) {
    this.#edit.hidden = !onEdit;
    this.#edit.onclick = () => this.#openEditor(onEdit);
    this.#regenerate.hidden = !onRegenerate;
    this.#regenerate.onclick = onRegenerate ?? null;
  }

  /** Show an error from the history. Screen readers do not announce it. @param {string} message */
  showError(message) {
    if (this.isStreaming || this.element.querySelector(".alert")) return;
    this.#content.append(make("div", "alert", make("p", "", message)));
  }

  /** Remove errors and the status line's actions. */
  clearError() {
    this.errorCode = "";
    this.status.setAction("", null);
    this.status.setAlternative("", null);
    for (const alert of this.element.querySelectorAll(".alert")) alert.remove();
  }

  /** @param {(text: string) => void} onEdit */
  #openEditor(onEdit) {
    const close = () => {
      editor.element.remove();
      this.#content.hidden = false;
      this.#footer.hidden = false;
    };
    const editor = new TextEditor(this.source, {
      label: "Edit message",
      group: "Message editor",
      note: "The reply to this message will be replaced.",
      submit: "Save and send",
      onCancel: () => (close(), this.#edit.focus()),
      onSubmit: (text) => (close(), onEdit(text)),
    });
    this.#content.hidden = true;
    this.#footer.hidden = true;
    this.element.append(editor.element);
    editor.focus();
  }

  async #copyText() {
    const copied = await copyText(this.source);
    const label = copied ? "Copied" : "Copying is blocked by the browser";
    this.#copy.classList.toggle("copied", copied);
    this.#setCopyLabel(label);
    setTimeout(() => (this.#copy.classList.remove("copied"), this.#setCopyLabel("Copy")), FEEDBACK_DURATION);
  }

  #setCopyLabel(label) {
    this.#copy.setAttribute("aria-label", label);
    this.#copy.title = label;
  }
}
