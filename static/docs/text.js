// Renders descriptions: paragraphs separated by blank lines, code between backticks.

import { make } from "../shared/dom.js";

/** @param {string} [text] @returns {HTMLElement[]} */
export function makeParagraphs(text = "") {
  return text.split("\n\n").filter(Boolean).map((paragraph) => make("p", "", ...withCode(paragraph)));
}

/** @param {string} text @returns {Array<Node | string>} */
export function withCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", "", part) : part));
}

/** A scrollable block of code. @param {string} label for screen readers @param {string} text */
export function makeCode(label, text) {
  const block = make("pre", "", make("code", "", text));
  block.tabIndex = 0;
  block.setAttribute("role", "group");
  block.setAttribute("aria-label", label);
  return block;
}
