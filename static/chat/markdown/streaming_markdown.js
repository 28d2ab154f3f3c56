// Markdown that grows: finished blocks are shown once and kept; only the last, open one is shown again, once a frame
// at most.

import { readBlocks, showBlock } from "./markdown.js";
import { morph } from "./morph.js";
import { closed, tellable } from "./partial_markdown.js";
import { PlainBlocks } from "./plain_text_blocks.js";
import { make } from "../../shared/dom.js";

// Beyond these limits the rest is shown as the plain text that it is, so that no reply can bring the page down.
const LONGEST = { code: 500_000, paragraph: 20_000, heading: 20_000 }; // characters
const LONGEST_OTHER = 50_000;
const MOST_BLOCKS = 5_000;
const PIECE = 10_000; // characters read at once

// Showing the open block takes a quarter of the time at most.
const REST = 3;

const MENDED = new Set(["blockquote", "heading", "list", "paragraph", "table", "text"]);

export class GrowingMarkdown {
  #parent;
  #text = "";
  #source = ""; // of the open block and what has not been read yet
  #reach = PIECE; // characters of it to read
  #open = null;
  #blocks = 0;
  #links = Object.create(null);
  #unlinked = []; // finished blocks that may name a link which is defined later
  #plain = null;
  #frame = 0;
  #restUntil = 0;

  /** @param {Element} parent */
  constructor(parent) {
    this.#parent = parent;
  }

  get isEmpty() {
    return !this.#text;
  }

  /** The text as it was written. @returns {string} */
  get text() {
    return this.#text;
  }

  /** @param {string} words */
  append(words) {
    this.#text += words;
    this.#source += words.replaceAll("\r", "");
    this.#askForFrame();
  }

  /** Show all that was appended now, as text that is complete; more may be appended all the same. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    while (this.#finishPiece());
    this.#guard(() => this.#finishBlocks(this.#source, false));
    this.#showOpen(false);
  }

  clear() {
    cancelAnimationFrame(this.#frame);
    this.#text = this.#source = "";
    this.#reach = PIECE;
    this.#frame = this.#blocks = 0;
    this.#links = Object.create(null);
    this.#unlinked = [];
    this.#open = this.#plain = null;
    this.#parent.replaceChildren();
  }

  #askForFrame() {
    this.#frame ||= requestAnimationFrame((now) => this.#showNext(now));
  }

  #showNext(now) {
    this.#frame = 0;
    if (now < this.#restUntil) {
      this.#askForFrame();
      return;
    }
    const begun = performance.now();
    if (this.#finishPiece()) this.#askForFrame();
    else this.#showOpen(true);
    const ended = performance.now();
    this.#restUntil = ended + REST * (ended - begun);
  }

  /** Read a piece of the source and show the blocks that end in it. @returns {boolean} whether there is another */
  #finishPiece() {
    while (!this.#plain) {
      const piece = tellable(this.#source.slice(0, this.#reach));
      const whole = this.#reach >= this.#source.length;
      const finished = this.#guard(() => this.#finishBlocks(piece, true));
      this.#reach = finished ? PIECE : this.#reach;
      if (whole || finished) return !whole && !this.#plain;
      this.#reach += PIECE; // no block ends in so much: none needs to be looked for there again
    }
    return false;
  }

  /**
   * Show the blocks that are followed by another.
   *
   * @param {string} piece the source's beginning
   * @param {boolean} coming whether more is to come
   * @returns {boolean} whether there were any
   */
  #finishBlocks(piece, coming) {
    const blocks = readBlocks(piece, this.#links, coming);
    const last = blocks.findLastIndex(({ type }) => type !== "space");
    if (last < 0) return false;
    const finished = blocks.slice(0, last);
    const length = finished.map(({ raw }) => raw).join("").length;
    if (this.#blocks > MOST_BLOCKS || isTooLong(blocks[last])) throw new RangeError("too much");
    for (const block of finished) if (block.type !== "space") this.#finish(block);
    this.#source = this.#source.slice(length);
    return length > 0;
  }

  #finish(block) {
    const element = this.#openElement();
    morph(element, showBlock(block, false));
    this.#open = null;
    if (block.type === "def") this.#define(block);
    else if (block.raw.includes("]")) this.#unlinked.push({ element, source: block.raw });
  }

  /** A link's target came after the words that name it. */
  #define({ tag, href, title }) {
    if (tag in this.#links) return;
    this.#links[tag] = { href, title };
    for (const { element, source } of this.#unlinked) {
      if (!source.toLowerCase().includes(`[${tag}]`)) continue;
      morph(element, showBlock(this.#readFirst(source, false), false));
    }
  }

  #showOpen(coming) {
    if (this.#plain) this.#takePlain();
    else this.#guard(() => this.#showLast(coming));
  }

  /** @param {boolean} coming whether the block's end is still to come */
  #showLast(coming) {
    const source = coming ? tellable(this.#source) : this.#source;
    const block = this.#readFirst(source, coming);
    if (!block) return;
    if (!coming && block.type === "def") this.#define(block);
    const tidy = coming && MENDED.has(block.type) ? closed(source) : source;
    morph(this.#openElement(), showBlock(tidy === source ? block : this.#readFirst(tidy, coming), coming));
  }

  #readFirst(source, coming) {
    return readBlocks(source, this.#links, coming).find(({ type }) => type !== "space");
  }

  #openElement() {
    if (!this.#open) {
      this.#open = make("div", "block");
      this.#parent.append(this.#open);
      this.#blocks += 1;
    }
    return this.#open;
  }

  /** Too much, or Markdown made to exhaust the stack: its text is shown all the same. */
  #guard(show) {
    try {
      return show();
    } catch {
      this.#goPlain();
      return true;
    }
  }

  #goPlain() {
    this.#open?.remove();
    this.#open = null;
    this.#plain = new PlainBlocks(this.#parent);
    this.#takePlain();
  }

  #takePlain() {
    this.#plain.append(this.#source);
    this.#source = "";
  }
}

function isTooLong({ type, raw }) {
  return raw.length > (LONGEST[type] ?? LONGEST_OTHER);
}
