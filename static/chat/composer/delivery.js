// Delivers a prompt to the server, however long that takes: also after a reload, and while another chat is shown.

import { allUnsent, drop, find, keep } from "./outbox.js";
import { ApiError, beginReply, fetchHistory, forgetFrom } from "../../shared/api.js";
import { tellChange } from "../../shared/page_events.js";
import { Pauses } from "../../shared/retry_timer.js";

const FIRST_PAUSE = 1;
const UNTIL_ASKED_AGAIN = 15;
const PRECONDITION_FAILED = 412;
const GONE_ON = "This conversation has gone on elsewhere, so nothing was replaced. Look at it, then send again.";

/** @typedef {import("./outbox.js").Unsent} Unsent */

/**
 * @typedef {object} DeliveryListener
 * @property {() => void} onTry
 * @property {(error: import("../../shared/api.js").ApiError, seconds: number) => void} onPause it failed and is tried again then
 * @property {(location: string) => void} onRunning another reply is in the way; it is waited for
 * @property {(location: string) => void} onTaken the server has it: where its reply can be followed
 * @property {(error: import("../../shared/api.js").ApiError) => void} onRefused it is not tried again
 * @property {() => void} onGone another tab has sent it or taken it back
 */

/** Those that are under way in this tab, by their keys. @type {Map<string, Delivery>} */
const underWay = new Map();

/** Deliver what an earlier page left unsent. */
export function deliverAll() {
  for (const unsent of allUnsent()) deliver(unsent);
}

/** Deliver nothing more to a conversation: it is forgotten. @param {string} appID */
export function cancelDeliveries(appID) {
  for (const delivery of [...underWay.values()]) if (delivery.unsent.appID === appID) delivery.cancel();
  for (const unsent of allUnsent()) if (unsent.appID === appID) drop(unsent.key);
}

/** @param {Unsent} unsent @param {DeliveryListener | null} listener @returns {Delivery} */
export function deliver(unsent, listener = null) {
  const delivery = underWay.get(unsent.key) ?? new Delivery(unsent);
  delivery.listener = listener;
  return delivery;
}

class Delivery {
  #unsent;
  #listener = null;
  #pauses;
  #failure = null;
  #trying = false;
  #ended = false;

  /** @param {Unsent} unsent */
  constructor(unsent) {
    this.#unsent = unsent;
    this.#pauses = new Pauses(() => this.#try(), (seconds) => this.#tellPause(seconds), FIRST_PAUSE);
    underWay.set(unsent.key, this);
    queueMicrotask(() => this.#try());
  }

  get unsent() {
    return this.#unsent;
  }

  /** Whether an attempt is being made now: it cannot be called back, only its reply be stopped. */
  get isTrying() {
    return this.#trying;
  }

  /** Who is told how it goes, from now on. @param {DeliveryListener | null} listener */
  set listener(listener) {
    this.#listener = listener;
    if (this.#trying) listener?.onTry();
  }

  tryNow() {
    this.#pauses.cutShort();
  }

  /** Take it back: it is not sent any more. */
  cancel() {
    this.#end();
    drop(this.#unsent.key);
  }

  async #try() {
    if (this.#trying || this.#ended) return;
    this.#trying = true;
    this.#listener?.onTry();
    try {
      const location = await alone(this.#unsent.appID, () => this.#send());
      this.#conclude(location);
    } catch (error) {
      this.#takeFailure(error);
    } finally {
      this.#trying = false;
    }
  }

  /** @returns {Promise<string | null>} null: it is not here any more */
  async #send() {
    const { key, appID, messages } = this.#unsent;
    if (messages.length) {
      const unsent = find(key);
      if (!unsent) return null;
      this.#unsent = unsent;
    }
    if (this.#unsent.from !== null) {
      await this.#forgetReplaced();
      this.#unsent = { ...this.#unsent, from: null }; // or the next attempt would forget what this one sends
      if (messages.length) keep(this.#unsent);
      tellChange(appID);
    }
    const location = await beginReply(appID, this.#unsent.model, messages, key, this.#unsent.options);
    drop(key); // before another tab has its turn
    return location;
  }

  /** Make place for it, unless somebody has gone on from what it takes the place of. */
  async #forgetReplaced() {
    const { appID, from, upTo } = this.#unsent;
    const { messages } = await fetchHistory(appID, null, 1);
    if (messages.some(({ seq }) => seq > upTo)) throw new ApiError(GONE_ON, PRECONDITION_FAILED);
    await forgetFrom(appID, from);
  }

  /** @param {string | null} location */
  #conclude(location) {
    const listener = this.#listener;
    this.cancel();
    tellChange(this.#unsent.appID, !listener);
    if (location === null) listener?.onGone();
    else listener?.onTaken(location);
  }

  /** @param {import("../../shared/api.js").ApiError} error */
  #takeFailure(error) {
    if (this.#ended) return;
    this.#failure = error;
    if (error.isPassing) {
      this.#pauses.next(error.retryAfter);
    } else if (error.status === 409) {
      this.#pauses.succeed();
      this.#pauses.next(UNTIL_ASKED_AGAIN);
      this.#listener?.onRunning(error.location);
    } else if (error.status === 401) {
      this.#end(); // kept, until its author is signed in again
    } else if (this.#listener) {
      const listener = this.#listener;
      this.cancel();
      listener.onRefused(error);
    } else {
      this.#end(); // kept, until somebody is there to be told
    }
  }

  #tellPause(seconds) {
    if (this.#failure.isPassing) this.#listener?.onPause(this.#failure, seconds);
  }

  #end() {
    this.#ended = true;
    this.#pauses.end();
    underWay.delete(this.#unsent.key);
  }
}

/**
 * Run `work` while no other tab does this for the conversation. A page over plain HTTP from elsewhere has no locks; there
 * the keys see to it that nothing is sent twice.
 */
function alone(appID, work) {
  return navigator.locks ? navigator.locks.request(`chatterd.deliver.${appID}`, work) : work();
}
