// One reply's server-sent events, told apart: the model's lines, errors in words, the connection's own troubles.

/**
 * @typedef {object} Line
 * @property {{content?: string, thinking?: string}} [message]
 * @property {boolean} [done]
 * @property {string} [done_reason]
 *
 * @typedef {object} StreamListener
 * @property {() => void} onOpen
 * @property {(line: Line) => void} onLine
 * @property {(sentence: string) => void} onError something went wrong with the reply; it may go on
 * @property {() => void} onLost the connection is gone; the browser connects again by itself
 * @property {() => void} onClosed the browser has given up: there is nothing more here, or the server refused
 */

export class ReplyStream {
  #source;
  #listener;

  /** @param {string} location @param {StreamListener} listener */
  constructor(location, listener) {
    this.#listener = listener;
    this.#source = new EventSource(location);
    this.#source.addEventListener("open", () => listener.onOpen());
    this.#source.addEventListener("message", (event) => listener.onLine(JSON.parse(event.data)));
    this.#source.addEventListener("error", (event) => this.#takeError(event));
  }

  close() {
    this.#source.close();
  }

  /** The server's error events and the connection's arrive at the same listener; only the server's have data. */
  #takeError(event) {
    if (event.data !== undefined) this.#listener.onError(JSON.parse(event.data).error);
    else if (this.#source.readyState === EventSource.CLOSED) this.#listener.onClosed();
    else this.#listener.onLost();
  }
}
