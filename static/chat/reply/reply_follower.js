// Follows one reply to its end, through lost connections and restarts of the server, without a word twice or missing.

import { ReplyStream } from "./reply_stream.js";
import { Pulse } from "./stall_detector.js";
import { fetchHistory, replyId } from "../../shared/api.js";
import { Pauses } from "../../shared/retry_timer.js";

const FIRST_PAUSE = 0;
const ENDINGS = { stopped: "Stopped.", length: "The reply reached its length limit." };

/** @typedef {import("../messages/reply_view.js").ReplyView} ReplyView */

export class FollowedReply {
  #view;
  #appID;
  #listener;
  #pauses;
  #pulse;
  #stream = null;
  #last = -1; // the number of the last line
  #isOpen = false;
  #lost = false;
  #resting = false;
  #ended = false;
  #erred = false;

  /**
   * @param {string} appID
   * @param {string} location
   * @param {ReplyView} view
   * @param {object} listener
   * @param {() => void} listener.onLost the connection is lost, and could not be made again at once
   * @param {(ending: {erred: boolean, goesOn: boolean}) => void} listener.onEnd whether there may be more to say
   */
  constructor(appID, location, view, listener) {
    this.#appID = appID;
    this.location = location;
    this.id = replyId(location);
    this.#view = view;
    this.#listener = listener;
    this.#pauses = new Pauses(() => this.#followAgain(), (seconds) => this.#tellPause(seconds), FIRST_PAUSE);
    this.#pulse = new Pulse({ onSilence: () => this.#doubt(), onHidden: () => this.#rest() });
    view.status.connect();
    this.#follow();
  }

  /** Look away; the reply goes on in the server. */
  leave() {
    this.#ended = true;
    this.#stream?.close();
    this.#pauses.end();
    this.#pulse.end();
    this.#view.end();
  }

  #follow() {
    this.#resting = false;
    this.#isOpen = false;
    this.#stream?.close();
    this.#pulse.ask();
    this.#stream = new ReplyStream(this.location, this.#last, {
      onOpen: () => this.#takeOpening(),
      onLine: (number, line) => this.#isNew(number) && this.#takeLine(line),
      onError: (number, sentence) => this.#isNew(number) && this.#takeError(sentence),
      onEnd: (refused) => this.#takeLoss(refused),
    });
  }

  #takeOpening() {
    this.#isOpen = true;
    this.#pulse.beat();
    if (this.#view.isEmpty) this.#view.status.wait();
    else this.#view.status.stream(this.#view.figures);
  }

  /** The connection of a tab that woke may still deliver what its successor delivers too. */
  #isNew(number) {
    this.#pulse.beat();
    if (number <= this.#last) return false;
    this.#last = number;
    this.#lost = false;
    this.#pauses.succeed();
    return true;
  }

  /** @param {import("./reply_stream.js").Line} line */
  #takeLine(line) {
    this.#erred = false;
    this.#view.take(line);
    if (!line.done) return;
    if (line.done_reason in ENDINGS) this.#end({ sentence: ENDINGS[line.done_reason], goesOn: true });
    else this.#end({ sentence: this.#view.isEmpty ? "The model said nothing." : "", goesOn: false });
  }

  #takeError(sentence) {
    this.#erred = true;
    this.#view.addError(sentence);
  }

  #followAgain() {
    this.#tellPause(0);
    this.#follow();
  }

  /** Nothing came for long, or somebody came back: the connection may be dead without a sign of it. */
  #doubt() {
    if (!this.#stream && !this.#resting) this.#pauses.cutShort();
    else if (this.#isOpen || this.#resting) this.#follow();
    else this.#followAgain();
  }

  /** Nobody looks: connect again when somebody does. */
  #rest() {
    if (this.#resting) return;
    this.#resting = true;
    this.#pauses.rest();
    this.#stream?.close();
    this.#stream = null;
  }

  /** After an error, and where the server has no events, the reply is over as a rule: ask before trying again. */
  async #takeLoss(refused) {
    this.#stream = null;
    if (refused || this.#erred) {
      const history = await fetchHistory(this.#appID).catch(() => null);
      if (this.#ended || this.#stream) return;
      if (history && history.reply?.id !== this.id) {
        this.#takeHistory(history);
        return;
      }
    }
    this.#pauses.next();
  }

  /** @param {import("../../shared/api.js").History} history of after the reply's end */
  #takeHistory(history) {
    const kept = history.messages.find((message) => message.id === this.id);
    if (kept) this.#view.replace(kept);
    if (kept?.error && !this.#erred) this.#takeError(kept.error);
    if (!kept && this.#view.isEmpty && !this.#erred) this.#takeError("The server has nothing of this reply any more.");
    this.#end(endingOf(kept));
  }

  #tellPause(seconds) {
    if (seconds > 0 && !this.#lost) this.#listener.onLost();
    this.#lost ||= seconds > 0;
    this.#view.status.reconnect(seconds, () => this.#pauses.cutShort());
  }

  /** @param {{sentence: string, goesOn: boolean}} ending */
  #end(ending) {
    this.leave();
    this.#view.status.end({ ...ending, figures: this.#view.figures });
    this.#listener.onEnd({ erred: this.#erred, goesOn: ending.goesOn });
  }
}

/**
 * How a reply ended that the page did not see end.
 *
 * @param {import("../../shared/api.js").Message} [message]
 * @returns {{sentence: string, goesOn: boolean}}
 */
export function endingOf(message) {
  const stopped = message?.status === "stopped";
  return { sentence: stopped ? ENDINGS.stopped : "", goesOn: stopped };
}
