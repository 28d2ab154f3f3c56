// One message's place in the transcript: the message, and below it how it stands and what can be done with it.

import { PromptEditor } from "./prompt_editor.js";
import { make, makeIconButton } from "../../shared/dom.js";
import { copyText } from "../../shared/polyfills.js";

const COPY = "M7 7V4.5A1.5 1.5 0 0 1 8.5 3h7A1.5 1.5 0 0 1 17 4.5v7a1.5 1.5 0 0 1-1.5 1.5H13M4.5 7h7A1.5 1.5 0 0 1 13 8.5v7a1.5 1.5 0 0 1-1.5 1.5h-7A1.5 1.5 0 0 1 3 15.5v-7A1.5 1.5 0 0 1 4.5 7z";
const EDIT = "M12.5 4.5l3 3M4 16l.8-3.8L13.2 3.8a1.4 1.4 0 0 1 2 0l1 1a1.4 1.4 0 0 1 0 2L7.8 15.2z";
const AGAIN = "M16.5 10a6.5 6.5 0 1 1-2-4.7M16.5 3v3.5H13";
const SHOW_COPIED = 2000;

export class Turn {
  /** The message's id, which is its reply's too; null until the server has told. @type {string | null} */
  id = null;
  /** Its number; null until the server has told. @type {number | null} */
  seq = null;
  /** As the server has it; null until it has told. @type {import("../../shared/api.js").Message | null} */
  message = null;
  /** Where a reply shows what comes; null if it came from the history. @type {import("./reply_view.js").ReplyView | null} */
  view = null;
  /** Whether it is being followed: then its words and errors come from there, and from nowhere else. */
  isComing = false;
  #content;
  #source;
  #copy = makeIconButton("Copy", COPY);
  #edit = makeIconButton("Edit", EDIT);
  #again = makeIconButton("Another answer", AGAIN);
  #foot;

  /**
   * @param {string} role
   * @param {HTMLElement} content
   * @param {() => string} source what the message says, as it was written
   * @param {import("../reply/reply_status.js").ReplyStatus} status how it stands
   */
  constructor(role, content, source, status) {
    this.role = role;
    this.status = status;
    this.#content = content;
    this.#source = source;
    const actions = make("div", "actions", this.#copy, this.#edit, this.#again);
    this.#foot = make("div", "foot", status.element, actions);
    this.element = make("div", `turn ${role}`, content, this.#foot);
    this.#copy.addEventListener("click", () => this.#copyText());
    this.offer({});
  }

  /** @returns {string} */
  get source() {
    return this.#source();
  }

  /** The server has told of it. @param {import("../../shared/api.js").Message} message */
  name(message) {
    this.id = message.id;
    this.seq = message.seq;
    this.message = message;
    if (!this.isComing) this.view?.replace(message);
  }

  /**
   * Offer to change what was said; what is not given is not possible now.
   *
   * @param {object} actions
   * @param {(text: string) => void} [actions.onEdit]
   * @param {() => void} [actions.onAgain]
   */
  offer({ onEdit, onAgain }) {
    this.#edit.hidden = !onEdit;
    this.#edit.onclick = () => this.#openEditor(onEdit);
    this.#again.hidden = !onAgain;
    this.#again.onclick = onAgain ?? null;
  }

  /** What went wrong, said and not shouted: it is no news. @param {string} sentence */
  tellError(sentence) {
    if (this.isComing || this.element.querySelector(".alert")) return;
    this.#content.append(make("div", "alert", make("p", "", sentence)));
  }

  /** Something came after it: take errors and offers back. */
  settle() {
    this.status.offer("", null);
    for (const alert of this.element.querySelectorAll(".alert")) alert.remove();
  }

  /** @param {(text: string) => void} onEdit */
  #openEditor(onEdit) {
    const close = () => {
      editor.element.remove();
      this.#content.hidden = false;
      this.#foot.hidden = false;
    };
    const editor = new PromptEditor(this.source, {
      onCancel: () => (close(), this.#edit.focus()),
      onDone: (text) => (close(), onEdit(text)),
    });
    this.#content.hidden = true;
    this.#foot.hidden = true;
    this.element.append(editor.element);
    editor.focus();
  }

  async #copyText() {
    const copied = await copyText(this.source);
    const label = copied ? "Copied" : "The browser does not allow copying.";
    this.#copy.classList.toggle("copied", copied);
    this.#label(label);
    setTimeout(() => (this.#copy.classList.remove("copied"), this.#label("Copy")), SHOW_COPIED);
  }

  #label(label) {
    this.#copy.setAttribute("aria-label", label);
    this.#copy.title = label;
  }
}
