// The sidebar in a narrow window: a modal drawer that traps the focus and restores it when closed.

const NARROW = matchMedia("(max-width: 52rem)"); // the same breakpoint as in sidebar.css

export class Drawer {
  #panel;
  #page;
  #opener;
  #backdrop;
  #closer;
  #isOpen = false;

  /**
   * @param {HTMLElement} panel
   * @param {HTMLElement} page the content under the drawer
   * @param {{opener: HTMLElement, closer: HTMLElement, backdrop: HTMLElement}} controls
   */
  constructor(panel, page, { opener, closer, backdrop }) {
    this.#panel = panel;
    this.#page = page;
    this.#opener = opener;
    this.#closer = closer;
    this.#backdrop = backdrop;
    opener.addEventListener("click", () => this.open());
    closer.addEventListener("click", () => this.close());
    backdrop.addEventListener("click", () => this.close());
    panel.addEventListener("keydown", (event) => this.#handleKey(event));
    NARROW.addEventListener("change", () => this.close());
  }

  open() {
    if (this.#isOpen || !NARROW.matches) return;
    this.#show(true);
    this.#closer.focus();
  }

  close() {
    if (!this.#isOpen) return;
    this.#show(false);
    this.#opener.focus();
  }

  #show(isOpen) {
    this.#isOpen = isOpen;
    this.#panel.classList.toggle("open", isOpen);
    this.#backdrop.hidden = !isOpen;
    this.#page.inert = isOpen; // no keyboard, pointer or screen reader access
    this.#opener.setAttribute("aria-expanded", String(isOpen));
    this.#panel.setAttribute("role", isOpen ? "dialog" : "complementary");
    if (isOpen) this.#panel.setAttribute("aria-modal", "true");
    else this.#panel.removeAttribute("aria-modal");
  }

  #handleKey(event) {
    if (!this.#isOpen || event.defaultPrevented) return;
    if (event.key === "Escape") {
      event.preventDefault(); // it must not stop a reply, too
      this.close();
    } else if (event.key === "Tab") this.#trapFocus(event);
  }

  /** Wrap the focus from the last control to the first and back. */
  #trapFocus(event) {
    const targets = [...this.#panel.querySelectorAll("a[href], button, input")].filter((element) => element.checkVisibility());
    const [from, to] = event.shiftKey ? [targets[0], targets.at(-1)] : [targets.at(-1), targets[0]];
    if (document.activeElement !== from) return;
    event.preventDefault();
    to.focus();
  }
}
