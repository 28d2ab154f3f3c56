// The message form: text, image attachments, and the button that sends the prompt or stops the reply.

import { onFileDropOrPaste } from "./drop_and_paste.js";
import { ImageAttachments } from "./image_attachments.js";
import { base64Of, dataUrlOf } from "./image_file.js";

const DRAFT_DELAY = 300; // milliseconds after the last input

/**
 * @typedef {object} ComposerHandlers
 * @property {(text: string, images: string[]) => void} onSend with the images in base64
 * @property {() => void} onStop
 * @property {(text: string) => void} onDraft called to save the text
 * @property {(busy: boolean) => void} onBusy
 */

export class Composer {
  #textarea;
  #button;
  #attachments;
  #busy = false;
  #handlers;
  #draftTimer = 0;

  /** @param {HTMLFormElement} form @param {ComposerHandlers} handlers */
  constructor(form, handlers) {
    this.#handlers = handlers;
    this.#textarea = form.querySelector("textarea");
    this.#button = form.querySelector("#send");
    this.#attachments = new ImageAttachments(form, () => this.#update());
    this.#textarea.addEventListener("input", () => this.#handleInput());
    this.#textarea.addEventListener("keydown", (event) => this.#handleKey(event));
    this.#button.addEventListener("click", (event) => this.#handleClick(event));
    form.addEventListener("submit", (event) => event.preventDefault());
    onFileDropOrPaste((files) => this.#attach(files), form);
    addEventListener("pagehide", () => this.saveDraft());
    addEventListener("resize", () => this.#update());
    document.addEventListener("keydown", (event) => {
      const isEscape = event.key === "Escape" && !event.isComposing && !event.defaultPrevented;
      if (isEscape && !event.target.closest("dialog")) this.#stop();
    });
  }

  get busy() {
    return this.#busy;
  }

  /** Whether a reply is pending or running: the button then stops it. @param {boolean} busy */
  set busy(busy) {
    this.#busy = busy;
    this.#button.classList.toggle("stop", busy);
    this.#button.setAttribute("aria-label", busy ? "Stop" : "Send");
    this.#update();
    this.#handlers.onBusy(busy);
  }

  /** The attached images as data URLs. @returns {string[]} */
  get images() {
    return this.#attachments.images;
  }

  /** Show the draft of another conversation. @param {string} text @param {string[]} images data URLs */
  show(text, images) {
    this.#textarea.value = text;
    this.#attachments.images = images;
  }

  /** @param {string} model @param {boolean | null} supportsImages null: unknown */
  setModel(model, supportsImages) {
    this.#attachments.setModel(model, supportsImages);
  }

  /**
   * Put an unsent prompt back, before the text that was typed since.
   *
   * @param {string} text
   * @param {string[]} images base64
   */
  restore(text, images = []) {
    const typed = this.#textarea.value;
    this.#textarea.value = typed ? `${text}\n${typed}` : text;
    this.#attachments.images = [...images.map(dataUrlOf), ...this.images];
    this.saveDraft();
    this.focus();
  }

  /** Save the draft immediately. */
  saveDraft() {
    clearTimeout(this.#draftTimer);
    this.#handlers.onDraft(this.#textarea.value);
  }

  /** Focus the text area, unless that would open an on-screen keyboard. */
  focus() {
    if (matchMedia("(pointer: fine)").matches) this.#textarea.focus();
  }

  #handleInput() {
    this.#update();
    clearTimeout(this.#draftTimer);
    this.#draftTimer = setTimeout(() => this.saveDraft(), DRAFT_DELAY);
  }

  #handleKey(event) {
    // Safari ends an IME composition before the keydown event of its Enter, which then has the key code 229.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    if (!this.#busy) this.#send();
  }

  #handleClick(event) {
    if (event.detail > 1) return; // the second click of a double click on Send must not stop the reply
    if (this.#busy) this.#stop();
    else this.#send();
  }

  #send() {
    const text = this.#textarea.value;
    const images = this.images;
    if ((!text.trim() && !images.length) || !this.#attachments.checkSendable()) return;
    this.#textarea.value = "";
    this.#attachments.images = [];
    this.saveDraft();
    this.#handlers.onSend(text, images.map(base64Of));
  }

  #stop() {
    if (!this.#busy || this.#button.disabled) return;
    this.#button.disabled = true;
    this.#handlers.onStop();
  }

  async #attach(files) {
    await this.#attachments.add(files);
    this.focus();
  }

  /** Update the button and grow the text area to its content. */
  #update() {
    this.#button.disabled = !this.#busy && !this.#textarea.value.trim() && !this.images.length;
    this.#textarea.style.height = "auto";
    this.#textarea.style.height = `${this.#textarea.scrollHeight}px`;
  }
}
