// Markdown to nodes for the page: read by marked, let through by DOMPurify, made fit to be shown.

import { makeCodeBlock } from "./code_block.js";
import { escape, maths, withoutMaths } from "./math.js";
import { allowedHTML, isHarmless } from "./sanitizer.js";
import { make } from "../../shared/dom.js";
import { Lexer, Marked, Parser } from "../../vendor/marked.js";

/** @typedef {{type: string, raw: string}} Block what marked read, with the source that it was read from */
/** @typedef {Object<string, {href: string, title: string | null}>} Links definitions of links, by their names */

const DIRECTED = "p, h1, h2, h3, h4, h5, h6, ul, ol, blockquote, td, th";

const renderer = {
  br: () => "<br>\n",
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  html: ({ text, block }) => (isHarmless(text) ? text : block ? `<p>${escape(text)}</p>` : escape(text)),
  image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || "Image")}</a>`, // loads nothing
};
const complete = optionsWith(maths(false));
const coming = optionsWith(maths(true));

function optionsWith(extensions) {
  return new Marked({ gfm: true, breaks: true, renderer, extensions, hooks: { emStrongMask: withoutMaths } }).defaults;
}

/**
 * Read the blocks of a text.
 *
 * @param {string} source without carriage returns
 * @param {Links} links definitions known from before
 * @param {boolean} open whether the text's end is still to come
 * @returns {Block[]} whose sources together are the text
 */
export function readBlocks(source, links, open) {
  const lexer = new Lexer(open ? coming : complete);
  Object.assign(lexer.tokens.links, links);
  return lexer.lex(source);
}

/**
 * Make the nodes that show a block.
 *
 * @param {Block} block
 * @param {boolean} open whether the block's end is still to come
 * @returns {DocumentFragment}
 */
export function showBlock(block, open) {
  if (block.type === "code") return fragmentOf(makeCodeBlock(block.text, block.lang, open));
  const fragment = allowedHTML(Parser.parse([block], complete));
  for (const element of fragment.querySelectorAll(DIRECTED)) element.dir = "auto";
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(makeCodeBlock(pre.textContent, languageOf(pre), open));
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

/** A wide table scrolls by itself, with the keyboard too. */
function makeScrollable(table) {
  const frame = make("div", "table-frame");
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", "Table");
  table.replaceWith(frame);
  frame.append(table);
}
