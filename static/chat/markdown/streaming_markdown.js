// Markdown that is appended to while it is shown. A worker parses it; blocks that did not change keep their elements.

import { showPart } from "./block.js";
import { markdownWorker } from "./markdown_worker.js";
import { PlainTextBlocks } from "./plain_text_blocks.js";
import { make } from "../../shared/dom.js";

// After rendering, pause this many times as long: rendering takes at most a quarter of the time.
const PAUSE_FACTOR = 3;

// Render for this long at once, in milliseconds: typing waits for it.
const MAX_TASK_TIME = 4;

const MAX_FRAME_TIME = 100; // milliseconds

// Text that waits longer than this, in milliseconds, is shown as plain text meanwhile: the worker is busy or not loaded.
const MAX_WAITING_TIME = 1_000;

let documentCount = 0;

export class StreamingMarkdown {
  #parent;
  #text = "";
  #isComplete = false;
  #isPending = false; // whether text waits to be rendered
  #waiters = [];
  #frame = 0;
  #pausedUntil = 0;
  #plainTimer = 0;
  #version = 0; // of the text: increased when it is replaced

  // The document in the worker
  #worker = null; // that has it; null: none
  #id = 0;
  #sentLength = 0; // of the text
  #isHighlighted = true;
  /** The job in progress. @type {{version: number, isComplete: boolean} | null} */
  #job = null;

  // What is shown
  /** @type {HTMLElement[]} */
  #blocks = [];
  #completed = 0; // number of complete blocks
  #completedLength = 0; // of their source, without carriage returns
  #isPlain = false; // whether the text after them stays plain
  #plain = null;
  #plainLength = 0; // of the text that is shown up to the end of the plain text

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

  get isShown() {
    return this.#parent.isConnected;
  }

  /** Resolves when all text so far is rendered, or shown as plain text for now. @returns {Promise<void>} */
  whenRendered() {
    return this.#isPending && !this.#plain ? new Promise((resolve) => this.#waiters.push(resolve)) : Promise.resolve();
  }

  /** @param {string} text */
  append(text) {
    if (!text) return;
    if (this.#isComplete) this.#worker = null; // it drops complete documents
    this.#isComplete = false;
    this.#text += text;
    this.#setPending(true);
    this.#requestFrame();
  }

  /** Render all text now, as if it were complete. More may still be appended. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.#text || this.#isComplete) return;
    this.#isComplete = true;
    this.#setPending(true);
    this.#schedule();
  }

  clear() {
    cancelAnimationFrame(this.#frame);
    this.#stopPlainTimer();
    this.#version += 1;
    this.#text = "";
    this.#worker = null;
    this.#frame = this.#completed = this.#completedLength = 0;
    this.#isComplete = this.#isPlain = false;
    this.#isHighlighted = true;
    this.#blocks = [];
    this.#plain = null;
    this.#parent.replaceChildren();
    this.#setPending(false);
  }

  /**
   * @param {object} worker
   * @returns {import("./worker/worker.js").Job}
   */
  takeJob(worker) {
    if (this.#worker !== worker) {
      this.#worker = worker;
      this.#id = documentCount += 1;
      this.#sentLength = 0;
    }
    const text = this.#text.slice(this.#sentLength).replaceAll("\r", "");
    this.#sentLength = this.#text.length;
    this.#job = { version: this.#version, isComplete: this.#isComplete };
    return { id: this.#id, text, isComplete: this.#isComplete, isHighlighted: this.#isHighlighted };
  }

  /**
   * Show what the worker has rendered.
   *
   * @param {import("./worker/worker.js").Answer} answer
   * @returns {Promise<boolean>} whether the next job can begin
   */
  async render({ parts, completed, completedLength, hasMore, isPlain, duration }) {
    this.#stopPlainTimer();
    const startedAt = performance.now();
    if (this.#isCurrent()) await this.#show(parts);
    if (this.#isCurrent()) {
      this.#completed = completed;
      this.#completedLength = completedLength;
      if (!hasMore) this.#removeBlocks(completed + 1); // those of an earlier document with the same text
      if (isPlain) this.#switchToPlain();
      const isAll = this.#sentLength === this.#text.length && this.#job.isComplete === this.#isComplete;
      if (this.#isPlain || (isAll && !hasMore)) this.#setPending(false);
    }
    const endedAt = performance.now();
    this.#pausedUntil = endedAt + PAUSE_FACTOR * (duration + endedAt - startedAt);
    return this.#continue();
  }

  /**
   * Show the text without highlighting, or as plain text: it took the worker too long.
   *
   * @param {boolean} isHighlighting
   * @returns {boolean} whether the next job can begin
   */
  handleTimeout(isHighlighting) {
    this.#stopPlainTimer();
    if (this.#isCurrent()) {
      if (isHighlighting) this.#isHighlighted = false;
      else this.#switchToPlain();
    }
    return this.#continue();
  }

  /** Whether the text was not replaced since the job was taken. */
  #isCurrent() {
    return this.#job.version === this.#version;
  }

  /** @returns {boolean} whether the next job can begin; while text is appended, the next frame begins it */
  #continue() {
    if (this.#isPending && !this.#isComplete) this.#requestFrame();
    return this.#isPending && this.#isComplete;
  }

  /** @param {boolean} isPending */
  #setPending(isPending) {
    this.#isPending = isPending;
    this.#parent.ariaBusy = isPending ? "true" : null;
    if (!isPending) this.#resolveWaiters();
  }

  #resolveWaiters() {
    for (const resolve of this.#waiters.splice(0)) resolve();
  }

  #stopPlainTimer() {
    clearTimeout(this.#plainTimer);
    this.#plainTimer = 0;
  }

  #requestFrame() {
    this.#frame ||= requestAnimationFrame((now) => this.#handleFrame(now));
  }

  #handleFrame(now) {
    this.#frame = 0;
    if (now < this.#pausedUntil) this.#requestFrame();
    else this.#schedule();
  }

  #schedule() {
    if (this.#isPlain) {
      this.#appendPlain();
      this.#setPending(false);
      return;
    }
    markdownWorker.schedule(this);
    if (this.#plain) this.#appendPlain();
    else this.#plainTimer ||= setTimeout(() => this.#appendPlain(), MAX_WAITING_TIME);
  }

  /** @param {import("./worker/rendered_parts.js").Part[]} parts */
  async #show(parts) {
    this.#removePlain();
    let taskEnd = performance.now() + MAX_TASK_TIME;
    for (const part of parts) {
      showPart(this.#blockAt(part.index), part);
      if (performance.now() < taskEnd) continue;
      await nextFrame();
      if (!this.#isCurrent()) return;
      taskEnd = performance.now() + MAX_TASK_TIME;
    }
  }

  /** @param {number} index */
  #blockAt(index) {
    if (!this.#blocks[index]) {
      this.#blocks[index] = make("div", "block");
      this.#parent.append(this.#blocks[index]);
    }
    return this.#blocks[index];
  }

  /** @param {number} from index */
  #removeBlocks(from) {
    for (const block of this.#blocks.splice(from)) block.remove();
  }

  #switchToPlain() {
    this.#removePlain();
    this.#removeBlocks(this.#completed);
    this.#isPlain = true;
    this.#appendPlain();
    this.#setPending(false);
  }

  /** Show all text after the complete blocks as plain text. */
  #appendPlain() {
    if (!this.#plain) {
      for (const block of this.#blocks.slice(this.#completed)) block.remove();
      this.#plain = new PlainTextBlocks(this.#parent);
      this.#plain.append(this.#text.replaceAll("\r", "").slice(this.#completedLength));
    } else this.#plain.append(this.#text.slice(this.#plainLength).replaceAll("\r", ""));
    this.#plainLength = this.#text.length;
    this.#resolveWaiters();
  }

  #removePlain() {
    if (!this.#plain) return;
    this.#plain.remove();
    this.#plain = null;
    this.#parent.append(...this.#blocks.slice(this.#completed));
  }
}

/** Let the browser handle input and show what is rendered so far; in a hidden tab there are no frames. */
function nextFrame() {
  return new Promise((resolve) => {
    requestAnimationFrame(resolve);
    setTimeout(resolve, MAX_FRAME_TIME);
  });
}
