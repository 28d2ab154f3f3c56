// Descriptions as elements: a paragraph for each blank line, code for what stands between backticks.

import { make } from "../shared/dom.js";

/** @param {string} [text] @returns {HTMLElement[]} */
export function makeProse(text = "") {
  return text.split("\n\n").filter(Boolean).map((paragraph) => make("p", "", ...withCode(paragraph)));
}

/** @param {string} text @returns {Array<Node | string>} */
export function withCode(text) {
  return text.split("`").map((part, number) => (number % 2 ? make("code", "", part) : part));
}

/** Text of a program's, that scrolls on its own. @param {string} label what it is @param {string} text */
export function makeCode(label, text) {
  const block = make("pre", "", make("code", "", text));
  block.tabIndex = 0;
  block.setAttribute("role", "group");
  block.setAttribute("aria-label", label);
  return block;
}
