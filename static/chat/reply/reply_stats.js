// A reply's figures: how many tokens, how soon, how fast; Ollama's own where it gives them, else measured.

const NANOSECONDS = 1e9;
const LEAST_SPAN = 0.5; // seconds of text below which a rate would be a guess

/** @typedef {{name: string, value: string}} Figure */

export class Figures {
  #asked;
  #begun = 0;
  #count = 0;
  #firstMade = 0;
  #lastMade = 0;
  #last = {};

  /** @param {number | null} asked when the reply was asked for, as performance.now(); null if that was not seen */
  constructor(asked = null) {
    this.#asked = asked;
  }

  /** @param {import("./reply_stream.js").Line} line */
  take(line) {
    if (line.done) this.#last = line;
    if (!line.message?.content && !line.message?.thinking) return;
    this.#count += 1; // Ollama sends a line for each token
    this.#begun ||= performance.now();
    this.#lastMade = Date.parse(line.created_at);
    this.#firstMade ||= this.#lastMade;
  }

  /** How many tokens there are. */
  get tokens() {
    return Math.max(this.#last.eval_count ?? 0, this.#count); // a continued reply's last line counts the continuation only
  }

  /** Tokens per second; null if not known yet. By the model's clock: the connection may hold words back. @returns {number | null} */
  get rate() {
    const { eval_count: count, eval_duration: duration } = this.#last;
    if (count && duration) return count / (duration / NANOSECONDS);
    const span = (this.#lastMade - this.#firstMade) / 1000;
    return span >= LEAST_SPAN ? (this.#count - 1) / span : null;
  }

  /** In a few words. */
  get summary() {
    if (!this.tokens) return "";
    const tokens = this.tokens === 1 ? "1 token" : `${this.tokens.toLocaleString("en")} tokens`;
    return this.rate === null ? tokens : `${tokens} · ${formatRate(this.rate)}`;
  }

  /** All that is known. @returns {Figure[]} */
  list() {
    const { total_duration: total, load_duration: load, prompt_eval_count: prompt } = this.#last;
    return [
      { name: "Tokens", value: this.tokens.toLocaleString("en") },
      { name: "First token after", value: formatSeconds(this.#firstAfter()) },
      { name: "Speed", value: this.rate === null ? "" : formatRate(this.rate) },
      { name: "In all", value: formatSeconds(total ? total / NANOSECONDS : null) },
      { name: "Loading the model", value: formatSeconds(load ? load / NANOSECONDS : null) },
      { name: "Prompt tokens", value: prompt ? prompt.toLocaleString("en") : "" },
    ].filter(({ value }) => value);
  }

  /** As the reader saw it; where the page did not see the beginning, as the model says. */
  #firstAfter() {
    if (this.#asked !== null && this.#begun) return (this.#begun - this.#asked) / 1000;
    const { load_duration: load = 0, prompt_eval_duration: prompt } = this.#last;
    return prompt ? (load + prompt) / NANOSECONDS : null;
  }
}

/** @param {number} rate tokens per second */
export function formatRate(rate) {
  return `${rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString("en")} tokens/s`;
}

/** @param {number | null} seconds */
function formatSeconds(seconds) {
  if (seconds === null) return "";
  return seconds < 10 ? `${seconds.toFixed(2)} s` : `${Math.round(seconds).toLocaleString("en")} s`;
}
