// One connection to a reply's event stream: reports lines, errors, and the end of the connection.

/**
 * @typedef {object} Line
 * @property {{content?: string, thinking?: string}} [message]
 * @property {string} [created_at]
 * @property {boolean} [thinking_restarted] the model thinks anew after an interruption: its thought so far is void
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
 * @property {(number: number, message: string, code?: string) => void} onError an error event of the server; the reply may continue
 * @property {(rejected: boolean) => void} onEnd the connection is closed; `rejected`: the server responded, but not
 *   with a stream (the reply has ended, or the server cannot show it now)
 */

export class ReplyStream {
  #source;
  #listener;

  /**
   * @param {string} location
   * @param {number} after number of the last line received; -1: none
   * @param {StreamListener} listener
   */
  constructor(location, after, listener) {
    this.#listener = listener;
    this.#source = new EventSource(after < 0 ? location : `${location}?lastEventId=${after}`);
    this.#source.addEventListener("open", () => listener.onOpen());
    this.#source.addEventListener("message", (event) => listener.onLine(Number(event.lastEventId), JSON.parse(event.data)));
    this.#source.addEventListener("error", (event) => this.#handleError(event));
  }

  close() {
    this.#source.close();
  }

  /**
   * The server's error events and the connection's errors reach the same listener; only the server's have data. Close
   * the EventSource: its own reconnects have no visible countdown and do not react to the network's return.
   */
  #handleError(event) {
    if (event.data !== undefined) {
      const { error, code } = JSON.parse(event.data);
      this.#listener.onError(Number(event.lastEventId), error, code);
      return;
    }
    const rejected = this.#source.readyState === EventSource.CLOSED;
    this.close();
    this.#listener.onEnd(rejected);
  }
}
