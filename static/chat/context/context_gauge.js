// The gauge below the message box: how much of the model's window the conversation takes.

import { describeContext, describeTokens, isIncomplete, isNearlyFull, usedShare } from "./context_text.js";
import { make } from "../../shared/dom.js";

const INCOMPLETE = "not everything is sent";

export class ContextGauge {
  #element;
  #bar;
  #text;
  #details;

  /** @param {HTMLDetailsElement} element */
  constructor(element) {
    this.#element = element;
    this.#bar = element.querySelector(".gauge-bar");
    this.#text = element.querySelector(".gauge-text");
    this.#details = element.querySelector("ul");
  }

  /** @param {import("../../shared/api.js").Context | null} context null: unknown, the gauge is hidden */
  show(context) {
    this.#element.hidden = context === null;
    if (context === null) {
      this.#element.open = false;
      return;
    }
    const share = usedShare(context);
    this.#bar.hidden = share === null;
    this.#bar.firstElementChild.style.width = `${100 * (share ?? 0)}%`;
    const [nearlyFull, incomplete] = [isNearlyFull(context), isIncomplete(context)];
    this.#text.textContent = [describeTokens(context), incomplete && INCOMPLETE].filter(Boolean).join(" · ");
    this.#details.replaceChildren(...describeContext(context).map((sentence) => make("li", "", sentence)));
    this.#element.classList.toggle("nearly-full", nearlyFull);
    this.#element.classList.toggle("quiet", !nearlyFull && !incomplete);
  }
}
