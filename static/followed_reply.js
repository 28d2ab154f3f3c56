// Follows one reply to its end, through lost connections and restarts of the server.

import { fetchHistory, replyId } from "./api.js";
import { ReplyStream } from "./reply_stream.js";

const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 15000;
const ENDINGS = { stopped: "Stopped.", length: "The reply reached its length limit." };

/** @typedef {import("./reply_view.js").ReplyView} ReplyView */

export class FollowedReply {
  #view;
  #appID;
  #onEnd;
  #stream = null;
  #timer = 0;
  #ended = false;
  #erred = false;
  #attempts = 0; // to begin anew since the last line came

  /**
   * @param {string} appID
   * @param {string} location
   * @param {ReplyView} view
   * @param {(outcome: {erred: boolean}) => void} onEnd
   */
  constructor(appID, location, view, onEnd) {
    this.#appID = appID;
    this.location = location;
    this.#view = view;
    this.#onEnd = onEnd;
    this.#follow();
  }

  /** Look away; the reply goes on in the server. */
  leave() {
    this.#ended = true;
    this.#stream?.close();
    clearTimeout(this.#timer);
    this.#view.end();
  }

  #follow() {
    let fresh = true; // lines come from the beginning: what is shown gives way, once there is something to show
    const begin = () => {
      if (fresh) this.#view.clear();
      fresh = false;
      this.#attempts = 0;
    };
    this.#stream = new ReplyStream(this.location, {
      onOpen: () => this.#view.wait(),
      onLine: (line) => (begin(), this.#takeLine(line)),
      onError: (sentence) => (begin(), this.#takeError(sentence)),
      onLost: () => this.#takeLoss(),
      onClosed: () => this.#recover(),
    });
  }

  /** @param {import("./reply_stream.js").Line} line */
  #takeLine(line) {
    this.#erred = false;
    this.#view.append(line.message?.content ?? "", line.message?.thinking ?? "");
    if (!line.done) return;
    if (line.done_reason in ENDINGS) this.#view.addNote(ENDINGS[line.done_reason]);
    else if (this.#view.isEmpty) this.#view.addNote("The model said nothing.");
    this.#end();
  }

  #takeError(sentence) {
    this.#erred = true;
    this.#view.addError(sentence);
  }

  /** After an error the connection usually closes because the reply is over: ask before waiting for more. */
  async #takeLoss() {
    if (!this.#erred) {
      this.#view.reconnect();
      return;
    }
    const history = await this.#fetchHistory();
    if (!this.#ended && history?.reply?.id !== replyId(this.location)) this.#end();
  }

  /** The browser has given up on the stream. Once the server answers again, follow the reply from its beginning. */
  async #recover() {
    if (this.#erred) {
      this.#end();
      return;
    }
    this.#view.reconnect();
    const history = await this.#fetchHistory();
    if (this.#ended) return;
    const running = history?.reply?.id === replyId(this.location);
    if (history && !running && this.#attempts > 0) this.#endWith(history);
    else this.#timer = setTimeout(() => this.#follow(), this.#nextPause());
  }

  /** @param {import("./api.js").History} history */
  #endWith(history) {
    const kept = history.messages.find((message) => message.id === replyId(this.location));
    this.#view.clear();
    if (kept) this.#view.append(kept.content, kept.thinking);
    else this.#takeError("The server has nothing of this reply any more.");
    this.#end();
  }

  async #fetchHistory() {
    try {
      return await fetchHistory(this.#appID);
    } catch {
      return null;
    }
  }

  #nextPause() {
    const pause = this.#attempts === 0 ? 0 : FIRST_PAUSE * 2 ** (this.#attempts - 1);
    this.#attempts += 1;
    return Math.min(pause, LONGEST_PAUSE);
  }

  #end() {
    this.leave();
    this.#onEnd({ erred: this.#erred });
  }
}
