// The images that go with the next prompt: taken by button, paste or drop, shown small, removed again.

import { ImageError, readImage } from "./image_file.js";
import { make, makeIconButton } from "../../shared/dom.js";

const MOST = 8;

export class ImageTray {
  #row;
  #note;
  #onChange;
  #images = [];
  #reading = 0;
  #owner = {}; // the conversation, by a token: what is still being read belongs to the one in which it began
  #takes = null;
  #model = "";

  /** @param {HTMLElement} root @param {() => void} onChange */
  constructor(root, onChange) {
    this.#row = root.querySelector("#thumbnails");
    this.#note = root.querySelector("#image-note");
    this.#onChange = onChange;
    const chooser = root.querySelector("#image-file");
    root.querySelector("#attach").addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => {
      this.add([...chooser.files]);
      chooser.value = ""; // so that the same file can be chosen again
    });
  }

  /** Data URLs. @returns {string[]} */
  get images() {
    return this.#images;
  }

  set images(images) {
    this.#owner = {};
    this.#reading = 0;
    this.#images = [...images];
    this.#show();
  }

  /** Say why the images cannot be sent now, if so. @returns {boolean} */
  refuses() {
    const cannot = this.#images.length > 0 && this.#takes === false;
    if (cannot) this.#say(this.#refusal());
    else if (this.#reading) this.#say("An image is still being read. Send again in a moment.");
    return cannot || this.#reading > 0;
  }

  /** @param {string} model @param {boolean | null} takes whether it takes images; null: there is no telling */
  setModel(model, takes) {
    this.#model = model;
    this.#takes = takes;
    this.#tell();
  }

  /** @param {File[]} files @returns {Promise<void>} */
  async add(files) {
    if (this.#takes === false) {
      this.#say(this.#refusal());
      return;
    }
    const owner = this.#owner;
    const room = MOST - this.#images.length - this.#reading;
    const taken = files.slice(0, Math.max(0, room));
    const complaints = files.length > taken.length ? [`A message can carry ${MOST} images.`] : [];
    this.#reading += taken.length;
    for (const file of taken) {
      const image = await readImage(file).catch((error) => error);
      if (owner !== this.#owner) return;
      this.#reading -= 1;
      if (image instanceof ImageError) complaints.push(image.message);
      else if (image instanceof Error) throw image;
      else this.#images.push(image);
    }
    this.#show();
    if (complaints.length) this.#say(complaints.join(" "));
  }

  #show() {
    this.#row.replaceChildren(...this.#images.map((image, place) => this.#makeThumbnail(image, place)));
    this.#row.hidden = !this.#images.length;
    this.#tell();
    this.#onChange();
  }

  #makeThumbnail(image, place) {
    const picture = make("img", "");
    picture.src = image;
    picture.alt = `Image ${place + 1}`;
    const remove = makeIconButton(`Remove image ${place + 1}`, "M5 5l10 10M15 5L5 15");
    remove.addEventListener("click", () => {
      this.#images.splice(place, 1);
      this.#show();
      (this.#row.querySelectorAll("button")[Math.min(place, this.#images.length - 1)] ?? this.#row.parentElement.querySelector("textarea")).focus();
    });
    return make("li", "", picture, remove);
  }

  #tell() {
    if (!this.#images.length) this.#say("");
    else if (this.#takes === false) this.#say(this.#refusal());
    else if (this.#takes === null) this.#say(`It is not known whether ${this.#model} sees images. One that does not may answer as if there were none.`);
    else this.#say("");
  }

  #refusal() {
    return `${this.#model} takes no images. Choose a model that does, such as llama3.2-vision, or send words alone.`;
  }

  #say(sentence) {
    this.#note.textContent = sentence;
    this.#note.hidden = !sentence;
  }
}
