// The page's side of the worker that parses Markdown: one job at a time, each within a time limit. A worker that exceeds
// it is stopped and replaced, so that no text of a model can block the page or other messages.

const SCRIPT = new URL("./worker/worker.js", import.meta.url).href;

// A job takes a few milliseconds. The limit is counted in ticks: after a suspension of the page, one tick may pass
// although the worker did not run.
const TICK = 1_000; // milliseconds
const MAX_TICKS = 2;

const RESTART_DELAY = 5_000; // milliseconds after the worker could not be loaded: perhaps offline

/**
 * @typedef {object} Client a document that has text to render
 * @property {boolean} isShown whether it is part of the page: other documents wait
 * @property {(worker: object) => import("./worker/worker.js").Job} takeJob `worker` has the text of earlier jobs that it was
 *   given; another one has none
 * @property {(answer: import("./worker/worker.js").Answer) => Promise<boolean>} render resolves to whether there is another job
 * @property {(isHighlighting: boolean) => boolean} handleTimeout `isHighlighting`: the worker was stopped while it highlighted
 *   code. Returns whether there is another job
 */

// The page's Content-Security-Policy requires Trusted Types, and allows this policy.
const policy = globalThis.trustedTypes?.createPolicy("markdown-worker", { createScriptURL: () => SCRIPT });

class MarkdownWorker {
  /** @type {Client[]} */
  #waiting = [];
  /** @type {Client | null} */
  #client = null; // of the job in progress
  #worker = null;
  #isReady = false;
  #isHighlighting = false;
  #timer = 0;

  constructor() {
    this.#start();
  }

  /** Have a document rendered soon; newer ones first. @param {Client} client */
  schedule(client) {
    if (this.#waiting.includes(client) || client === this.#client) return;
    this.#waiting.push(client);
    queueMicrotask(() => this.#next()); // not before the document is part of the page
  }

  #start() {
    this.#isReady = false;
    try {
      this.#worker = new Worker(policy?.createScriptURL("") ?? SCRIPT, { type: "module" });
    } catch {
      this.#worker = null; // no workers in this browser: all text stays plain
      return;
    }
    this.#worker.addEventListener("message", ({ data }) => this.#handleMessage(data));
    this.#worker.addEventListener("error", () => this.#handleError(), { once: true });
  }

  #next() {
    if (this.#client || !this.#isReady || !this.#waiting.length) return;
    const index = this.#waiting.findLastIndex(({ isShown }) => isShown);
    [this.#client] = this.#waiting.splice(index, 1); // -1: the last
    this.#isHighlighting = false;
    this.#worker.postMessage(this.#client.takeJob(this.#worker));
    this.#startTimer(MAX_TICKS);
  }

  /** @param {number} ticks */
  #startTimer(ticks) {
    this.#timer = setTimeout(() => (ticks > 1 ? this.#startTimer(ticks - 1) : this.#handleTimeout()), TICK);
  }

  #handleMessage({ isReady, isHighlighting, answer }) {
    if (isReady) {
      this.#isReady = true;
      this.#next();
    } else if (isHighlighting !== undefined) this.#isHighlighting = isHighlighting;
    else this.#handleAnswer(answer);
  }

  /** @param {import("./worker/worker.js").Answer} answer */
  async #handleAnswer(answer) {
    clearTimeout(this.#timer);
    const client = this.#client;
    const hasMore = await client.render(answer);
    this.#end(client, hasMore);
  }

  #handleTimeout() {
    this.#worker.terminate();
    this.#start();
    this.#abandonJob();
  }

  /** The worker could not be loaded, or failed. Load it again later: perhaps the server restarts. */
  #handleError() {
    this.#worker.terminate();
    this.#isReady = false;
    setTimeout(() => this.#start(), RESTART_DELAY);
    if (this.#client) this.#abandonJob();
  }

  #abandonJob() {
    clearTimeout(this.#timer);
    this.#end(this.#client, this.#client.handleTimeout(this.#isHighlighting));
  }

  /** End a job. A document with more of them waits for the others. */
  #end(client, hasMore) {
    if (client !== this.#client) return; // the worker failed while its answer was rendered
    this.#client = null;
    if (hasMore && !this.#waiting.includes(client)) this.#waiting.unshift(client);
    this.#next();
  }
}

export const markdownWorker = new MarkdownWorker();
