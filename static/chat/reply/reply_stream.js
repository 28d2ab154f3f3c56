// One connection to a reply's server-sent events, told apart: the model's lines, errors in words, the connection's end.

/**
 * @typedef {object} Line
 * @property {{content?: string, thinking?: string}} [message]
 * @property {string} [created_at]
 * @property {boolean} [done]
 * @property {string} [done_reason]
 * @property {number} [eval_count]
 * @property {number} [eval_duration] nanoseconds, like the others
 * @property {number} [prompt_eval_count]
 * @property {number} [prompt_eval_duration]
 * @property {number} [load_duration]
 * @property {number} [total_duration]
 *
 * @typedef {object} StreamListener
 * @property {() => void} onOpen
 * @property {(number: number, line: Line) => void} onLine
 * @property {(number: number, sentence: string) => void} onError something went wrong with the reply; it may go on
 * @property {(refused: boolean) => void} onEnd the connection is over; `refused` if the server answered, but not with
 *   events: there is nothing more here, or it cannot show it now
 */

export class ReplyStream {
  #source;
  #listener;

  /**
   * @param {string} location
   * @param {number} after the number of the last line that is known, -1 if none is
   * @param {StreamListener} listener
   */
  constructor(location, after, listener) {
    this.#listener = listener;
    this.#source = new EventSource(after < 0 ? location : `${location}?lastEventId=${after}`);
    this.#source.addEventListener("open", () => listener.onOpen());
    this.#source.addEventListener("message", (event) => listener.onLine(Number(event.lastEventId), JSON.parse(event.data)));
    this.#source.addEventListener("error", (event) => this.#takeError(event));
  }

  close() {
    this.#source.close();
  }

  /**
   * The server's error events and the connection's arrive at the same listener; only the server's have data. An
   * EventSource would connect again by itself, but neither say when, nor at once when the network returns.
   */
  #takeError(event) {
    if (event.data !== undefined) {
      this.#listener.onError(Number(event.lastEventId), JSON.parse(event.data).error);
      return;
    }
    const refused = this.#source.readyState === EventSource.CLOSED;
    this.close();
    this.#listener.onEnd(refused);
  }
}
