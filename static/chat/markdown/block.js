// Shows a rendered block: sanitized, and adapted to the page.

import { makeCodeBlock } from "./code_block.js";
import { makeHighlighted } from "./highlighted_code.js";
import { haveSameTag, morph } from "./morph.js";
import { sanitize } from "./sanitizer.js";
import { make } from "../../shared/dom.js";

const DIRECTIONAL = "p, h1, h2, h3, h4, h5, h6, ul, ol, blockquote, td, th";

/**
 * Show a part of a block.
 *
 * @param {HTMLElement} target the block's element
 * @param {import("./worker/rendered_parts.js").Part} part
 */
export function showPart(target, part) {
  const fragment = makePart(part);
  if (part.isWhole) {
    morph(target, fragment);
    return;
  }
  const list = fragment.firstElementChild;
  for (const node of [...list.childNodes]) if (node.nodeType === Node.TEXT_NODE) node.remove(); // between the items
  const shown = target.firstElementChild;
  if (shown && haveSameTag(shown, list)) morph(shown, list, part.firstItem, part.isLast);
  else target.replaceChildren(list);
}

/** @param {import("./worker/rendered_parts.js").Part} part @returns {DocumentFragment} */
function makePart({ html, code }) {
  if (code) return wrapCode(makeHighlighted(html), code);
  const fragment = sanitize(html);
  for (const element of fragment.querySelectorAll(DIRECTIONAL)) element.dir = "auto";
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(makeNestedCodeBlock(pre));
  for (const table of fragment.querySelectorAll("table")) makeScrollable(table);
  return fragment;
}

/** @param {DocumentFragment} highlighted @param {{language: string, rest: string}} code */
function wrapCode(highlighted, { language, rest }) {
  if (rest) highlighted.append(rest);
  const fragment = document.createDocumentFragment();
  fragment.append(makeCodeBlock(highlighted, language));
  return fragment;
}

/** The code block of a `pre` in a list or a quote, or in HTML that the model wrote. */
function makeNestedCodeBlock(pre) {
  const code = pre.querySelector("code[class]");
  const content = document.createDocumentFragment();
  if (code) content.append(...code.childNodes);
  else content.append(pre.textContent);
  const last = content.lastChild;
  if (last?.nodeType === Node.TEXT_NODE) last.data = last.data.replace(/\n$/, "");
  return makeCodeBlock(content, code?.className.replace("language-", "") ?? "");
}

/** Let a wide table scroll horizontally, also with the keyboard. */
function makeScrollable(table) {
  const frame = make("div", "table-frame");
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", "Table");
  table.replaceWith(frame);
  frame.append(table);
}
