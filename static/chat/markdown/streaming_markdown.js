// Markdown that is appended to while it is shown. Complete blocks are rendered once; only the last, open block is
// rendered again, at most once per frame.

import { parseBlocks, renderBlock } from "./markdown.js";
import { morph } from "./morph.js";
import { closeMarkup, trimAmbiguousEnd } from "./partial_markdown.js";
import { PlainTextBlocks } from "./plain_text_blocks.js";
import { make } from "../../shared/dom.js";

// Beyond these limits the rest is shown as plain text, so that no reply can make the page unresponsive.
const MAX_LENGTH = { code: 500_000, paragraph: 20_000, heading: 20_000 }; // characters
const MAX_OTHER_LENGTH = 50_000;
const MAX_BLOCKS = 5_000;
const CHUNK = 10_000; // characters parsed at once

// After rendering, pause this many times as long: rendering takes at most a quarter of the time.
const PAUSE_FACTOR = 3;

const CLOSABLE = new Set(["blockquote", "heading", "list", "paragraph", "table", "text"]);

export class StreamingMarkdown {
  #parent;
  #text = "";
  #source = ""; // of the open block and the text that is not parsed yet
  #parseLength = CHUNK; // characters of it to parse
  #openBlock = null;
  #blockCount = 0;
  #links = Object.create(null);
  #unresolved = []; // complete blocks that may refer to a link that is defined later
  #plain = null;
  #frame = 0;
  #pausedUntil = 0;

  /** @param {Element} parent */
  constructor(parent) {
    this.#parent = parent;
  }

  get isEmpty() {
    return !this.#text;
  }

  /** The Markdown source. @returns {string} */
  get text() {
    return this.#text;
  }

  /** @param {string} text */
  append(text) {
    this.#text += text;
    this.#source += text.replaceAll("\r", "");
    this.#requestFrame();
  }

  /** Render all text now, as if it were complete. More may still be appended. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    while (this.#completeChunk());
    this.#guard(() => this.#completeBlocks(this.#source, false));
    this.#renderOpen(false);
  }

  clear() {
    cancelAnimationFrame(this.#frame);
    this.#text = this.#source = "";
    this.#parseLength = CHUNK;
    this.#frame = this.#blockCount = 0;
    this.#links = Object.create(null);
    this.#unresolved = [];
    this.#openBlock = this.#plain = null;
    this.#parent.replaceChildren();
  }

  #requestFrame() {
    this.#frame ||= requestAnimationFrame((now) => this.#renderFrame(now));
  }

  #renderFrame(now) {
    this.#frame = 0;
    if (now < this.#pausedUntil) {
      this.#requestFrame();
      return;
    }
    const startedAt = performance.now();
    if (this.#completeChunk()) this.#requestFrame();
    else this.#renderOpen(true);
    const endedAt = performance.now();
    this.#pausedUntil = endedAt + PAUSE_FACTOR * (endedAt - startedAt);
  }

  /** Parse a chunk of the source and render the blocks that end in it. @returns {boolean} whether there is more */
  #completeChunk() {
    while (!this.#plain) {
      const chunk = trimAmbiguousEnd(this.#source.slice(0, this.#parseLength));
      const isAll = this.#parseLength >= this.#source.length;
      const completed = this.#guard(() => this.#completeBlocks(chunk, true));
      this.#parseLength = completed ? CHUNK : this.#parseLength;
      if (isAll || completed) return !isAll && !this.#plain;
      this.#parseLength += CHUNK; // no block ends in this chunk
    }
    return false;
  }

  /**
   * Render the blocks that are followed by another one.
   *
   * @param {string} chunk a prefix of the source
   * @param {boolean} isPartial whether more text will follow
   * @returns {boolean} whether there were any
   */
  #completeBlocks(chunk, isPartial) {
    const blocks = parseBlocks(chunk, this.#links, isPartial);
    const last = blocks.findLastIndex(({ type }) => type !== "space");
    if (last < 0) return false;
    const complete = blocks.slice(0, last);
    const length = complete.map(({ raw }) => raw).join("").length;
    if (this.#blockCount > MAX_BLOCKS || isTooLong(blocks[last])) throw new RangeError("limit exceeded");
    for (const block of complete) if (block.type !== "space") this.#complete(block);
    this.#source = this.#source.slice(length);
    return length > 0;
  }

  #complete(block) {
    const element = this.#openElement();
    morph(element, renderBlock(block, false));
    this.#openBlock = null;
    if (block.type === "def") this.#define(block);
    else if (block.raw.includes("]")) this.#unresolved.push({ element, source: block.raw });
  }

  /** Add a link definition, and render the earlier blocks that refer to it again. */
  #define({ tag, href, title }) {
    if (tag in this.#links) return;
    this.#links[tag] = { href, title };
    for (const { element, source } of this.#unresolved) {
      if (!source.toLowerCase().includes(`[${tag}]`)) continue;
      morph(element, renderBlock(this.#parseFirst(source, false), false));
    }
  }

  #renderOpen(isPartial) {
    if (this.#plain) this.#appendPlain();
    else this.#guard(() => this.#renderLast(isPartial));
  }

  /** @param {boolean} isPartial whether more text will follow */
  #renderLast(isPartial) {
    const source = isPartial ? trimAmbiguousEnd(this.#source) : this.#source;
    const block = this.#parseFirst(source, isPartial);
    if (!block) return;
    if (!isPartial && block.type === "def") this.#define(block);
    const closed = isPartial && CLOSABLE.has(block.type) ? closeMarkup(source) : source;
    morph(this.#openElement(), renderBlock(closed === source ? block : this.#parseFirst(closed, isPartial), isPartial));
  }

  #parseFirst(source, isPartial) {
    return parseBlocks(source, this.#links, isPartial).find(({ type }) => type !== "space");
  }

  #openElement() {
    if (!this.#openBlock) {
      this.#openBlock = make("div", "block");
      this.#parent.append(this.#openBlock);
      this.#blockCount += 1;
    }
    return this.#openBlock;
  }

  /** Fall back to plain text if a limit is exceeded, or nested Markdown exhausts the stack. */
  #guard(render) {
    try {
      return render();
    } catch {
      this.#switchToPlain();
      return true;
    }
  }

  #switchToPlain() {
    this.#openBlock?.remove();
    this.#openBlock = null;
    this.#plain = new PlainTextBlocks(this.#parent);
    this.#appendPlain();
  }

  #appendPlain() {
    this.#plain.append(this.#source);
    this.#source = "";
  }
}

function isTooLong({ type, raw }) {
  return raw.length > (MAX_LENGTH[type] ?? MAX_OTHER_LENGTH);
}
