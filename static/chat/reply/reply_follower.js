// Follows a reply to its end and reconnects after lost connections and server restarts, without losing or repeating text.

import { ReplyStream } from "./reply_stream.js";
import { StallDetector } from "./stall_detector.js";
import { fetchHistory, replyId } from "../../shared/api.js";
import { RetryTimer } from "../../shared/retry_timer.js";

const FIRST_RETRY_DELAY = 0; // seconds
/** Why a reply is not complete, by `done_reason`. */
export const INCOMPLETE = { stopped: "Stopped.", length: "Maximum reply length reached." };

/**
 * @typedef {object} ReplyDisplay what shows the reply (see ReplyView)
 * @property {import("./reply_status.js").ReplyStatus} status
 * @property {import("./reply_stats.js").ReplyStats} stats
 * @property {boolean} isEmpty
 * @property {(line: import("./reply_stream.js").Line) => void} addLine
 * @property {(message: string) => void} addError
 * @property {(message: import("../../shared/api.js").Message) => void} replace
 * @property {() => void} end
 */

export class ReplyFollower {
  #view;
  #appID;
  #messageId;
  #listener;
  #retryTimer;
  #stallDetector;
  #stream = null;
  #lastNumber = -1; // of the lines received
  #isOpen = false;
  #isLost = false;
  #isSuspended = false;
  #isEnded = false;
  #hasFailed = false;
  /** @type {string | undefined} */
  #errorCode;

  /**
   * @param {string} appID
   * @param {string} location
   * @param {string} messageId of the message that the reply writes: its own, or the one that it continues
   * @param {ReplyDisplay} view
   * @param {object} listener
   * @param {() => void} listener.onConnectionLost the connection is lost, and the first attempt to reconnect failed
   * @param {(outcome: {failed: boolean, code?: string, canContinue: boolean}) => void} listener.onEnd
   */
  constructor(appID, location, messageId, view, listener) {
    this.#appID = appID;
    this.#messageId = messageId;
    this.location = location;
    this.id = replyId(location);
    this.#view = view;
    this.#listener = listener;
    this.#retryTimer = new RetryTimer(() => this.#reconnect(), (seconds) => this.#handleTick(seconds), FIRST_RETRY_DELAY);
    this.#stallDetector = new StallDetector({ onStall: () => this.#handleStall(), onHidden: () => this.#suspend() });
    view.status.showConnecting();
    this.#connect();
  }

  /** Stop following. The reply continues on the server. */
  close() {
    this.#isEnded = true;
    this.#stream?.close();
    this.#retryTimer.dispose();
    this.#stallDetector.dispose();
    this.#view.end();
  }

  #connect() {
    this.#isSuspended = false;
    this.#isOpen = false;
    this.#stream?.close();
    this.#stallDetector.handleRequest();
    this.#stream = new ReplyStream(this.location, this.#lastNumber, {
      onOpen: () => this.#handleOpen(),
      onLine: (number, line) => this.#accept(number) && this.#handleLine(line),
      onError: (number, message, code) => this.#accept(number) && this.#handleError(message, code),
      onEnd: (rejected) => this.#handleDisconnect(rejected),
    });
  }

  #handleOpen() {
    this.#isOpen = true;
    this.#stallDetector.handleActivity();
    if (this.#view.isEmpty) this.#view.status.showWaiting();
    else this.#view.status.showStreaming(this.#view.stats);
  }

  /** Whether a line is new: after a tab wakes up, its old connection may deliver lines that the new one delivers, too. */
  #accept(number) {
    this.#stallDetector.handleActivity();
    if (number <= this.#lastNumber) return false;
    this.#lastNumber = number;
    this.#isLost = false;
    this.#retryTimer.reset();
    return true;
  }

  /** @param {import("./reply_stream.js").Line} line */
  #handleLine(line) {
    this.#hasFailed = false;
    this.#view.addLine(line);
    if (!line.done) return;
    if (line.done_reason in INCOMPLETE) this.#end({ text: INCOMPLETE[line.done_reason], canContinue: true });
    else this.#end({ text: this.#view.isEmpty ? "The model returned an empty reply." : "", canContinue: false });
  }

  #handleError(message, code) {
    this.#hasFailed = true;
    this.#errorCode = code;
    this.#view.addError(message);
  }

  #reconnect() {
    this.#handleTick(0);
    this.#connect();
  }

  /** Reconnect: the connection may be dead without notice, or the page or network has resumed. */
  #handleStall() {
    if (!this.#stream && !this.#isSuspended) this.#retryTimer.retryNow();
    else if (this.#isOpen || this.#isSuspended) this.#connect();
    else this.#reconnect();
  }

  /** Close the connection of a hidden tab until it is shown again. */
  #suspend() {
    if (this.#isSuspended) return;
    this.#isSuspended = true;
    this.#retryTimer.cancel();
    this.#stream?.close();
    this.#stream = null;
  }

  /** After an error event or a response without a stream the reply has probably ended: check before retrying. */
  async #handleDisconnect(rejected) {
    this.#stream = null;
    if (rejected || this.#hasFailed) {
      const history = await fetchHistory(this.#appID).catch(() => null);
      if (this.#isEnded || this.#stream) return;
      if (history && history.reply?.id !== this.id) {
        this.#endFromHistory(history);
        return;
      }
    }
    this.#retryTimer.schedule();
  }

  /** @param {import("../../shared/api.js").History} history fetched after the reply's end */
  #endFromHistory(history) {
    const message = history.messages.find(({ id }) => id === this.#messageId);
    if (message) this.#view.replace(message);
    if (message?.error && !this.#hasFailed) this.#handleError(message.error);
    if (!message && this.#view.isEmpty && !this.#hasFailed) this.#handleError("This reply is no longer available.");
    this.#end(outcomeOf(message));
  }

  #handleTick(seconds) {
    if (seconds > 0 && !this.#isLost) this.#listener.onConnectionLost();
    this.#isLost ||= seconds > 0;
    this.#view.status.showReconnecting(seconds, () => this.#retryTimer.retryNow());
  }

  /** @param {{text: string, canContinue: boolean}} outcome */
  #end({ text, canContinue }) {
    this.close();
    this.#view.status.showEnd({ text, stats: this.#view.stats });
    this.#listener.onEnd({ failed: this.#hasFailed, code: this.#errorCode, canContinue });
  }
}

/**
 * The outcome of a reply whose end was not streamed to this page.
 *
 * @param {import("../../shared/api.js").Message} [message]
 * @returns {{text: string, canContinue: boolean}}
 */
export function outcomeOf(message) {
  const stopped = message?.status === "stopped";
  return { text: stopped ? INCOMPLETE.stopped : "", canContinue: stopped };
}
