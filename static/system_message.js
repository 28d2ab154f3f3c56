// A system prompt in the transcript: folded, for it was not said to anyone but the model.

import { make } from "./elements.js";

/** @param {string} content @returns {HTMLElement} */
export function makeSystemMessage(content) {
  const text = make("div", "text", content);
  text.dir = "auto";
  const element = make("article", "message system", make("details", "", make("summary", "", "System prompt"), text));
  element.setAttribute("aria-label", "System");
  return element;
}
