// Parses Markdown with marked, and renders its tokens as HTML that is not sanitized yet.

import { highlight } from "./highlight.js";
import { escape, maskMath, mathExtensions } from "./math.js";
import { isSafe } from "./safe_html.js";
import { Lexer, Marked, Parser } from "../../../vendor/marked.js";

/** @typedef {{type: string, raw: string}} Token a block as a token of marked, with its source */
/** @typedef {Object<string, {href: string, title: string | null}>} Links link definitions by name */

const renderer = {
  br: () => "<br>\n",
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  code: ({ text, lang }) => {
    const language = languageOf(lang);
    return `<pre><code class="language-${escape(language)}">${highlight(text, language) ?? escape(text)}\n</code></pre>\n`;
  },
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
 * @returns {Token[]} their concatenated sources are the text
 */
export function parseBlocks(source, links, isPartial) {
  const lexer = new Lexer(isPartial ? partialOptions : completeOptions);
  Object.assign(lexer.tokens.links, links);
  return lexer.lex(source);
}

/** @param {Token} token @returns {string} HTML */
export function renderToken(token) {
  return Parser.parse([token], completeOptions);
}

/** The language of a code block. @param {string} [info] the info string after the fence; its first word is the language */
export function languageOf(info = "") {
  return info.trim().split(/\s/)[0].slice(0, 30);
}

/** The languages of the code blocks in blocks. @param {Token[]} tokens @returns {string[]} */
export function languagesIn(tokens) {
  const languages = new Set();
  new Marked().walkTokens(tokens, ({ type, lang }) => {
    if (type === "code" && lang) languages.add(languageOf(lang));
  });
  return [...languages];
}
