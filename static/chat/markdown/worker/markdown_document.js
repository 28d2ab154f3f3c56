// Markdown that is appended to while it is shown, in the worker. Complete blocks are rendered once; only the last, open
// block is rendered again with each change.

import { loadLanguages } from "./highlight.js";
import { languagesIn, parseBlocks } from "./parser.js";
import { closeMarkup, trimAmbiguousEnd } from "./partial_markdown.js";
import { changedParts, renderParts } from "./rendered_parts.js";

/** @typedef {import("./rendered_parts.js").Part} Part */

// Beyond these limits the rest is shown as plain text.
const MAX_LENGTH = { code: 500_000, paragraph: 20_000, heading: 20_000 }; // characters
const MAX_OTHER_LENGTH = 50_000;
const MAX_BLOCKS = 2_000;
const CHUNK = 10_000; // characters parsed at once

const CLOSABLE = new Set(["blockquote", "heading", "list", "paragraph", "table", "text"]);

export class MarkdownDocument {
  #source = ""; // of the open block and the text that is not parsed yet
  #parseLength = CHUNK; // characters of it to parse
  #completed = 0; // blocks
  #completedLength = 0; // characters
  #links = Object.create(null);
  #unresolved = []; // complete blocks that may refer to a link that is defined later
  /** Rendered and not sent yet, by index of the block. @type {Map<number, Part[]>} */
  #rendered = new Map();
  /** Of the open block, as the page shows them. @type {Part[]} */
  #shown = [];

  /** @param {string} text without carriage returns */
  append(text) {
    this.#source += text;
  }

  /**
   * Parse the next chunk of the source, and render the blocks that end in it; after the last chunk the open block, too.
   *
   * @param {boolean} isComplete whether no more text will follow
   * @returns {Promise<{parts: Part[], completed: number, completedLength: number, hasMore: boolean}>}
   * @throws {RangeError} the text exceeds a limit, or its nesting exhausts the stack
   */
  async advance(isComplete) {
    let hasMore = await this.#completeChunk();
    if (!hasMore) {
      if (isComplete) await this.#completeBlocks(this.#source, false);
      await this.#renderLast(!isComplete);
    }
    return { ...this.takeRendered(), hasMore };
  }

  /** What was rendered since the last call. */
  takeRendered() {
    const parts = [...this.#rendered.values()].flat();
    this.#rendered.clear();
    return { parts, completed: this.#completed, completedLength: this.#completedLength };
  }

  /** @returns {Promise<boolean>} whether there is more than the chunk */
  async #completeChunk() {
    for (;;) {
      const chunk = trimAmbiguousEnd(this.#source.slice(0, this.#parseLength));
      const isAll = this.#parseLength >= this.#source.length;
      const completed = await this.#completeBlocks(chunk, true);
      if (completed) this.#parseLength = CHUNK;
      if (isAll || completed) return !isAll;
      this.#parseLength += CHUNK; // no block ends in this chunk
    }
  }

  /**
   * Render the blocks that are followed by another one.
   *
   * @param {string} chunk a prefix of the source
   * @param {boolean} isPartial whether more text will follow
   * @returns {Promise<boolean>} whether there were any
   */
  async #completeBlocks(chunk, isPartial) {
    const tokens = parseBlocks(chunk, this.#links, isPartial);
    const last = tokens.findLastIndex(({ type }) => type !== "space");
    if (last < 0) return false;
    if (isTooLong(tokens[last])) throw new RangeError("The block is too long.");
    const complete = tokens.slice(0, last);
    await loadLanguages(languagesIn(complete));
    for (const token of complete) this.#complete(token);
    return complete.length > 0;
  }

  #complete(token) {
    if (token.type !== "space") {
      if (this.#completed >= MAX_BLOCKS) throw new RangeError("There are too many blocks.");
      const index = this.#completed;
      this.#renderOpen(token, false);
      this.#completed += 1;
      this.#shown = [];
      if (token.type === "def") this.#define(token);
      else if (token.raw.includes("]")) this.#unresolved.push({ index, source: token.raw });
    }
    this.#source = this.#source.slice(token.raw.length);
    this.#completedLength += token.raw.length;
  }

  /** Add a link definition, and render the earlier blocks that refer to it again. */
  #define({ tag, href, title }) {
    if (tag in this.#links) return;
    this.#links[tag] = { href, title };
    for (const { index, source } of this.#unresolved) {
      if (!source.toLowerCase().includes(`[${tag}]`)) continue;
      this.#rendered.set(index, renderParts(index, this.#parseFirst(source, false), false));
    }
  }

  /** Render the open block. @param {boolean} isPartial whether more text will follow */
  async #renderLast(isPartial) {
    const source = isPartial ? trimAmbiguousEnd(this.#source) : this.#source;
    const token = this.#parseFirst(source, isPartial);
    if (!token) return;
    await loadLanguages(languagesIn([token]));
    if (!isPartial && token.type === "def") this.#define(token);
    const closed = isPartial && CLOSABLE.has(token.type) ? closeMarkup(source) : source;
    this.#renderOpen(closed === source ? token : this.#parseFirst(closed, isPartial), isPartial);
  }

  #parseFirst(source, isPartial) {
    return parseBlocks(source, this.#links, isPartial).find(({ type }) => type !== "space");
  }

  /** @param {import("./parser.js").Token} token @param {boolean} isPartial */
  #renderOpen(token, isPartial) {
    const parts = renderParts(this.#completed, token, isPartial);
    this.#rendered.set(this.#completed, changedParts(parts, this.#shown));
    this.#shown = parts;
  }
}

function isTooLong({ type, raw }) {
  return raw.length > (MAX_LENGTH[type] ?? MAX_OTHER_LENGTH);
}
