// Renders Markdown: parsed by marked, sanitized by DOMPurify, then adapted to the page.

import { makeCodeBlock } from "./code_block.js";
import { escape, maskMath, mathExtensions } from "./math.js";
import { sanitize, isSafe } from "./sanitizer.js";
import { make } from "../../shared/dom.js";
import { Lexer, Marked, Parser } from "../../vendor/marked.js";

/** @typedef {{type: string, raw: string}} Block a token of marked, with its source */
/** @typedef {Object<string, {href: string, title: string | null}>} Links link definitions by name */

const DIRECTIONAL = "p, h1, h2, h3, h4, h5, h6, ul, ol, blockquote, td, th";

const renderer = {
  br: () => "<br>\n",
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  html: ({ text, block }) => (isSafe(text) ? text : block ? `<p>${escape(text)}</p>` : escape(text)),
  image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || "Image")}</a>`, // a link: external images are not loaded
};
const completeOptions = makeOptions(mathExtensions(false));
const partialOptions = makeOptions(mathExtensions(true));

function makeOptions(extensions) {
  return new Marked({ gfm: true, breaks: true, renderer, extensions, hooks: { emStrongMask: maskMath } }).defaults;
}

/**
 * Parse text into blocks.
 *
 * @param {string} source without carriage returns
 * @param {Links} links definitions from earlier blocks
 * @param {boolean} isPartial whether more text will follow
 * @returns {Block[]} their concatenated sources are the text
 */
export function parseBlocks(source, links, isPartial) {
  const lexer = new Lexer(isPartial ? partialOptions : completeOptions);
  Object.assign(lexer.tokens.links, links);
  return lexer.lex(source);
}

/**
 * Render a block.
 *
 * @param {Block} block
 * @param {boolean} isPartial whether more text will follow
 * @returns {DocumentFragment}
 */
export function renderBlock(block, isPartial) {
  if (block.type === "code") return fragmentOf(makeCodeBlock(block.text, block.lang, isPartial));
  const fragment = sanitize(Parser.parse([block], completeOptions));
  for (const element of fragment.querySelectorAll(DIRECTIONAL)) element.dir = "auto";
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(makeCodeBlock(pre.textContent, languageOf(pre), isPartial));
  for (const table of fragment.querySelectorAll("table")) makeScrollable(table);
  return fragment;
}

function fragmentOf(node) {
  const fragment = document.createDocumentFragment();
  fragment.append(node);
  return fragment;
}

function languageOf(pre) {
  return pre.querySelector("code")?.className.replace("language-", "") ?? "";
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
