// Statistics of a reply: token count, latency and speed. Uses Ollama's numbers where available, else measures.

const NANOSECONDS = 1e9; // in a second
const MIN_SPAN = 0.5; // seconds of text below which a rate is too inaccurate

/** @typedef {{name: string, value: string}} Stat */

export class ReplyStats {
  #requestedAt;
  #firstTokenAt = 0;
  #count = 0;
  #firstCreatedAt = 0;
  #lastCreatedAt = 0;
  #lastLine = {};

  /** @param {number | null} requestedAt `performance.now()` of the request; null: unknown */
  constructor(requestedAt = null) {
    this.#requestedAt = requestedAt;
  }

  /** @param {import("./reply_stream.js").Line} line */
  addLine(line) {
    if (line.done) this.#lastLine = line;
    if (!line.message?.content && !line.message?.thinking) return;
    this.#count += 1; // Ollama sends one line per token
    this.#firstTokenAt ||= performance.now();
    this.#lastCreatedAt = Date.parse(line.created_at);
    this.#firstCreatedAt ||= this.#lastCreatedAt;
  }

  get tokens() {
    return Math.max(this.#lastLine.eval_count ?? 0, this.#count); // a resumed reply's last line counts only the tokens since
  }

  /** Tokens per second; null if unknown. Uses the model's clock: the network may delay lines. @returns {number | null} */
  get rate() {
    const { eval_count: count, eval_duration: duration } = this.#lastLine;
    if (count && duration) return count / (duration / NANOSECONDS);
    const span = (this.#lastCreatedAt - this.#firstCreatedAt) / 1000;
    return span >= MIN_SPAN ? (this.#count - 1) / span : null;
  }

  get summary() {
    if (!this.tokens) return "";
    const tokens = this.tokens === 1 ? "1 token" : `${this.tokens.toLocaleString("en")} tokens`;
    return this.rate === null ? tokens : `${tokens} · ${formatRate(this.rate)}`;
  }

  /** All known statistics. @returns {Stat[]} */
  list() {
    const { total_duration: total, load_duration: load, prompt_eval_count: prompt } = this.#lastLine;
    return [
      { name: "Tokens", value: this.tokens.toLocaleString("en") },
      { name: "Time to first token", value: formatSeconds(this.#timeToFirstToken()) },
      { name: "Speed", value: this.rate === null ? "" : formatRate(this.rate) },
      { name: "Total time", value: formatSeconds(total ? total / NANOSECONDS : null) },
      { name: "Model load time", value: formatSeconds(load ? load / NANOSECONDS : null) },
      { name: "Prompt tokens", value: prompt ? prompt.toLocaleString("en") : "" },
    ].filter(({ value }) => value);
  }

  /** As measured by this page, else as reported by Ollama. */
  #timeToFirstToken() {
    if (this.#requestedAt !== null && this.#firstTokenAt) return (this.#firstTokenAt - this.#requestedAt) / 1000;
    const { load_duration: load = 0, prompt_eval_duration: prompt } = this.#lastLine;
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
