// The sidebar on a narrow window: a drawer that comes over the page, keeps the keyboard inside, and gives it back.

const NARROW = matchMedia("(max-width: 52rem)"); // as in sidebar.css

export class Drawer {
  #panel;
  #page;
  #opener;
  #backdrop;
  #closer;
  #isOpen = false;

  /**
   * @param {HTMLElement} panel
   * @param {HTMLElement} page all that the drawer covers
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
    panel.addEventListener("keydown", (event) => this.#takeKey(event));
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
    this.#page.inert = isOpen; // out of reach of keyboard, pointer and screen reader
    this.#opener.setAttribute("aria-expanded", String(isOpen));
    this.#panel.setAttribute("role", isOpen ? "dialog" : "complementary");
    if (isOpen) this.#panel.setAttribute("aria-modal", "true");
    else this.#panel.removeAttribute("aria-modal");
  }

  #takeKey(event) {
    if (!this.#isOpen || event.defaultPrevented) return;
    if (event.key === "Escape") {
      event.preventDefault(); // it stops no reply
      this.close();
    } else if (event.key === "Tab") this.#keepInside(event);
  }

  /** Tab goes round in the drawer. */
  #keepInside(event) {
    const stops = [...this.#panel.querySelectorAll("a[href], button, input")].filter((element) => element.checkVisibility());
    const [from, to] = event.shiftKey ? [stops[0], stops.at(-1)] : [stops.at(-1), stops[0]];
    if (document.activeElement !== from) return;
    event.preventDefault();
    to.focus();
  }
}
