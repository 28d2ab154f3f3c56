// The images attached to the next prompt: added by button, paste or drop, shown as thumbnails, removable.

import { ImageError, readImage } from "./image_file.js";
import { make, makeIconButton } from "../../shared/dom.js";

const MAX_IMAGES = 8;

export class ImageAttachments {
  #list;
  #note;
  #onChange;
  #images = [];
  #reading = 0;
  #conversation = {}; // a token: images still being read are dropped when the conversation changes
  #supported = null;
  #model = "";

  /** @param {HTMLElement} root @param {() => void} onChange */
  constructor(root, onChange) {
    this.#list = root.querySelector("#thumbnails");
    this.#note = root.querySelector("#image-note");
    this.#onChange = onChange;
    const input = root.querySelector("#image-file");
    root.querySelector("#attach").addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      this.add([...input.files]);
      input.value = ""; // allow to choose the same file again
    });
  }

  /** Data URLs. @returns {string[]} */
  get images() {
    return this.#images;
  }

  set images(images) {
    this.#conversation = {};
    this.#reading = 0;
    this.#images = [...images];
    this.#render();
  }

  /** Whether the prompt can be sent now; otherwise show why not. @returns {boolean} */
  checkSendable() {
    const unsupported = this.#images.length > 0 && this.#supported === false;
    if (unsupported) this.#showNote(this.#unsupportedMessage());
    else if (this.#reading) this.#showNote("An image is still loading. Try again in a moment.");
    return !unsupported && !this.#reading;
  }

  /** @param {string} model @param {boolean | null} supported whether it supports images; null: unknown */
  setModel(model, supported) {
    this.#model = model;
    this.#supported = supported;
    this.#updateNote();
  }

  /** @param {File[]} files @returns {Promise<void>} */
  async add(files) {
    if (this.#supported === false) {
      this.#showNote(this.#unsupportedMessage());
      return;
    }
    const conversation = this.#conversation;
    const available = MAX_IMAGES - this.#images.length - this.#reading;
    const accepted = files.slice(0, Math.max(0, available));
    const errors = files.length > accepted.length ? [`A message can have at most ${MAX_IMAGES} images.`] : [];
    this.#reading += accepted.length;
    for (const file of accepted) {
      const image = await readImage(file).catch((error) => error);
      if (conversation !== this.#conversation) return;
      this.#reading -= 1;
      if (image instanceof ImageError) errors.push(image.message);
      else if (image instanceof Error) throw image;
      else this.#images.push(image);
    }
    this.#render();
    if (errors.length) this.#showNote(errors.join(" "));
  }

  #render() {
    this.#list.replaceChildren(...this.#images.map((image, index) => this.#makeThumbnail(image, index)));
    this.#list.hidden = !this.#images.length;
    this.#updateNote();
    this.#onChange();
  }

  #makeThumbnail(image, index) {
    const thumbnail = make("img", "");
    thumbnail.src = image;
    thumbnail.alt = `Image ${index + 1}`;
    const remove = makeIconButton(`Remove image ${index + 1}`, "M5 5l10 10M15 5L5 15");
    remove.addEventListener("click", () => {
      this.#images.splice(index, 1);
      this.#render();
      const buttons = this.#list.querySelectorAll("button");
      const next = buttons[Math.min(index, this.#images.length - 1)];
      (next ?? this.#list.parentElement.querySelector("textarea")).focus();
    });
    return make("li", "", thumbnail, remove);
  }

  #updateNote() {
    if (!this.#images.length) this.#showNote("");
    else if (this.#supported === false) this.#showNote(this.#unsupportedMessage());
    else if (this.#supported === null) this.#showNote(`${this.#model} may not support images. If it does not, it ignores them.`);
    else this.#showNote("");
  }

  #unsupportedMessage() {
    return `${this.#model} does not support images. Choose a model that does, such as llama3.2-vision, or remove the images.`;
  }

  #showNote(message) {
    this.#note.textContent = message;
    this.#note.hidden = !message;
  }
}
