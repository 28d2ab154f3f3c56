// The box a prompt is written in, and the button that sends it or stops the reply.

export class Composer {
  #box;
  #button;
  #busy = false;
  #handlers;

  /**
   * @param {HTMLFormElement} form
   * @param {{onSend: (text: string) => void, onStop: () => void}} handlers
   */
  constructor(form, handlers) {
    this.#handlers = handlers;
    this.#box = form.querySelector("textarea");
    this.#button = form.querySelector("button");
    this.#box.addEventListener("input", () => this.#update());
    this.#box.addEventListener("keydown", (event) => this.#takeKey(event));
    this.#button.addEventListener("click", (event) => this.#takeClick(event));
    form.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing) this.#stop();
    });
    this.#update(); // the browser may have restored a text
  }

  /** Whether a reply is awaited: the button then stops it. @param {boolean} busy */
  set busy(busy) {
    this.#busy = busy;
    this.#button.classList.toggle("stops", busy);
    this.#button.setAttribute("aria-label", busy ? "Stop" : "Send");
    this.#update();
  }

  /** Put a prompt that could not be sent back before what has been written since. @param {string} text */
  giveBack(text) {
    const since = this.#box.value;
    this.#box.value = since ? `${text}\n${since}` : text;
    this.#update();
    this.focus();
  }

  /** Put the cursor into the box, unless that would open a keyboard on the screen. */
  focus() {
    if (matchMedia("(pointer: fine)").matches) this.#box.focus();
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
    if (!text.trim()) return;
    this.#box.value = "";
    this.#update();
    this.#handlers.onSend(text);
  }

  #stop() {
    if (!this.#busy || this.#button.disabled) return;
    this.#button.disabled = true;
    this.#handlers.onStop();
  }

  #update() {
    this.#button.disabled = !this.#busy && !this.#box.value.trim();
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight}px`;
  }
}
