// Renders a block in parts of a limited number of elements: the page shows one part at a time, and only what changed.

import { highlightBeginning } from "./highlight.js";
import { languageOf, renderToken } from "./parser.js";

const ITEMS_PER_PART = 25; // of a list

// Creating and laying out an element takes the page 10 to 40 microseconds, and typing has to wait for a whole part.
const MAX_ELEMENTS = 1_500;
const MAX_LIST_ELEMENTS = 5_000; // in all parts of a list: laying out the next one takes longer

/**
 * @typedef {object} Part a rendered block, or some items of a long list
 * @property {number} index of the block
 * @property {string} html not sanitized; of a code block: its beginning, highlighted
 * @property {{language: string, rest: string} | null} code `rest` follows `html` as text
 * @property {boolean} isWhole false: `html` is a list of some of its items
 * @property {number} firstItem number of items before it
 * @property {boolean} isLast whether no items follow
 */

/**
 * @param {number} index of the block
 * @param {import("./parser.js").Token} token
 * @param {boolean} isPartial whether more text will follow
 * @returns {Part[]}
 * @throws {RangeError} a part has too many elements
 */
export function renderParts(index, token, isPartial) {
  const whole = { index, code: null, isWhole: true, firstItem: 0, isLast: true };
  if (token.type === "code") return [{ ...whole, ...renderCode(token, isPartial) }];
  if (token.type !== "list") return [{ ...whole, html: render(token) }];
  const parts = [];
  let count = 0;
  for (let at = 0; at < token.items.length; at += ITEMS_PER_PART) {
    const html = render({ ...token, items: token.items.slice(at, at + ITEMS_PER_PART) });
    count += countElements(html);
    if (count > MAX_LIST_ELEMENTS) throw new RangeError("The list has too many elements.");
    parts.push({ ...whole, html, isWhole: false, firstItem: at, isLast: at + ITEMS_PER_PART >= token.items.length });
  }
  return parts;
}

/** The parts that differ from those shown, and all after them. @param {Part[]} parts @param {Part[]} shown */
export function changedParts(parts, shown) {
  const first = parts.findIndex((part, place) => !isEqual(part, shown[place]));
  return first < 0 ? [] : parts.slice(first);
}

function isEqual(one, other) {
  return other && one.html === other.html && one.isLast === other.isLast && one.code?.rest === other.code?.rest &&
    one.code?.language === other.code?.language;
}

function render(token) {
  const html = renderToken(token);
  if (countElements(html) > MAX_ELEMENTS) throw new RangeError("The block has too many elements.");
  return html;
}

function renderCode({ text, lang }, isPartial) {
  const language = languageOf(lang);
  const { html, rest } = highlightBeginning(text.replace(/\n$/, ""), language, isPartial);
  return { html, code: { language, rest } };
}

function countElements(html) {
  let count = 0;
  for (let at = html.indexOf("<"); at >= 0; at = html.indexOf("<", at + 1)) if (html[at + 1] !== "/") count += 1;
  return count;
}
