// The box a prompt is written in, the images that go with it, and the button that sends it or stops the reply.

import { takeDroppedImages } from "./drop_and_paste.js";
import { ImageTray } from "./image_attachments.js";
import { base64Of, dataUrlOf } from "./image_file.js";

const DRAFT_PAUSE = 300;

/**
 * @typedef {object} ComposerHandlers
 * @property {(text: string, images: string[]) => void} onSend told the images in base64
 * @property {() => void} onStop
 * @property {(text: string) => void} onDraft told what is written, to keep it
 * @property {(busy: boolean) => void} onBusy
 */

export class Composer {
  #box;
  #button;
  #tray;
  #busy = false;
  #handlers;
  #draftTimer = 0;

  /** @param {HTMLFormElement} form @param {ComposerHandlers} handlers */
  constructor(form, handlers) {
    this.#handlers = handlers;
    this.#box = form.querySelector("textarea");
    this.#button = form.querySelector("#send");
    this.#tray = new ImageTray(form, () => this.#update());
    this.#box.addEventListener("input", () => this.#takeInput());
    this.#box.addEventListener("keydown", (event) => this.#takeKey(event));
    this.#button.addEventListener("click", (event) => this.#takeClick(event));
    form.addEventListener("submit", (event) => event.preventDefault());
    takeDroppedImages((files) => this.#attach(files), form);
    addEventListener("pagehide", () => this.keepDraft());
    addEventListener("resize", () => this.#update());
    document.addEventListener("keydown", (event) => {
      const meant = event.key === "Escape" && !event.isComposing && !event.defaultPrevented;
      if (meant && !event.target.closest("dialog")) this.#stop();
    });
  }

  get busy() {
    return this.#busy;
  }

  /** Whether a reply is awaited: the button then stops it. @param {boolean} busy */
  set busy(busy) {
    this.#busy = busy;
    this.#button.classList.toggle("stops", busy);
    this.#button.setAttribute("aria-label", busy ? "Stop" : "Send");
    this.#update();
    this.#handlers.onBusy(busy);
  }

  /** The images that are to go with the prompt, as data URLs. @returns {string[]} */
  get images() {
    return this.#tray.images;
  }

  /** Show what was written in another conversation. @param {string} text @param {string[]} images data URLs */
  show(text, images) {
    this.#box.value = text;
    this.#tray.images = images;
  }

  /** @param {string} model @param {boolean | null} takesImages null: there is no telling */
  setModel(model, takesImages) {
    this.#tray.setModel(model, takesImages);
  }

  /**
   * Put a prompt that could not be sent back before what has been written since.
   *
   * @param {string} text
   * @param {string[]} images in base64
   */
  giveBack(text, images = []) {
    const since = this.#box.value;
    this.#box.value = since ? `${text}\n${since}` : text;
    this.#tray.images = [...images.map(dataUrlOf), ...this.images];
    this.keepDraft();
    this.focus();
  }

  /** Keep what is written, now. */
  keepDraft() {
    clearTimeout(this.#draftTimer);
    this.#handlers.onDraft(this.#box.value);
  }

  /** Put the cursor into the box, unless that would open a keyboard on the screen. */
  focus() {
    if (matchMedia("(pointer: fine)").matches) this.#box.focus();
  }

  #takeInput() {
    this.#update();
    clearTimeout(this.#draftTimer);
    this.#draftTimer = setTimeout(() => this.keepDraft(), DRAFT_PAUSE);
  }

  #takeKey(event) {
    // Safari ends a composition before its Enter, which then has the code 229.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    if (!this.#busy) this.#send();
  }

  #takeClick(event) {
    if (event.detail > 1) return; // the second half of a double click on Send is not meant for Stop
    if (this.#busy) this.#stop();
    else this.#send();
  }

  #send() {
    const text = this.#box.value;
    const images = this.images;
    if ((!text.trim() && !images.length) || this.#tray.refuses()) return;
    this.#box.value = "";
    this.#tray.images = [];
    this.keepDraft();
    this.#handlers.onSend(text, images.map(base64Of));
  }

  #stop() {
    if (!this.#busy || this.#button.disabled) return;
    this.#button.disabled = true;
    this.#handlers.onStop();
  }

  async #attach(files) {
    await this.#tray.add(files);
    this.focus();
  }

  #update() {
    this.#button.disabled = !this.#busy && !this.#box.value.trim() && !this.images.length;
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight}px`;
  }
}
