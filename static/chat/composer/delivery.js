// Delivers prompts to the server with retries, also after a reload and while another conversation is shown.

import { findInOutbox, listOutbox, removeFromOutbox, saveToOutbox } from "./outbox.js";
import { ApiError, deleteMessagesFrom, fetchHistory, startReply } from "../../shared/api.js";
import { broadcastChange } from "../../shared/page_events.js";
import { RetryTimer } from "../../shared/retry_timer.js";

const FIRST_RETRY_DELAY = 1; // seconds
const CONFLICT_RETRY_DELAY = 15; // seconds
const UNAUTHORIZED = 401;
const CONFLICT = 409;
const PRECONDITION_FAILED = 412;
const CHANGED_ELSEWHERE = "This conversation has changed on another device, so nothing was replaced. Review it, then send again.";

/** @typedef {import("./outbox.js").Unsent} Unsent */

/**
 * @typedef {object} DeliveryListener
 * @property {() => void} onAttempt
 * @property {(error: import("../../shared/api.js").ApiError, seconds: number) => void} onRetryScheduled after a failure
 * @property {(location: string) => void} onConflict another reply is running; the delivery waits for its end
 * @property {(location: string) => void} onAccepted with the URL of the reply
 * @property {(error: import("../../shared/api.js").ApiError) => void} onRejected there will be no retry
 * @property {() => void} onSettledElsewhere another tab has sent or cancelled it
 */

/** The deliveries of this tab by key. @type {Map<string, Delivery>} */
const deliveries = new Map();

/** Deliver the prompts that an earlier page left in the outbox. */
export function deliverAll() {
  for (const unsent of listOutbox()) deliver(unsent);
}

/** Cancel all deliveries to a conversation, as it is being deleted. @param {string} appID */
export function cancelDeliveries(appID) {
  for (const delivery of [...deliveries.values()]) if (delivery.unsent.appID === appID) delivery.cancel();
  for (const unsent of listOutbox()) if (unsent.appID === appID) removeFromOutbox(unsent.key);
}

/** @param {Unsent} unsent @param {DeliveryListener | null} listener @returns {Delivery} */
export function deliver(unsent, listener = null) {
  const delivery = deliveries.get(unsent.key) ?? new Delivery(unsent);
  delivery.listener = listener;
  return delivery;
}

class Delivery {
  #unsent;
  #listener = null;
  #retryTimer;
  #error = null;
  #isSending = false;
  #isEnded = false;

  /** @param {Unsent} unsent */
  constructor(unsent) {
    this.#unsent = unsent;
    this.#retryTimer = new RetryTimer(() => this.#attempt(), (seconds) => this.#handleTick(seconds), FIRST_RETRY_DELAY);
    deliveries.set(unsent.key, this);
    queueMicrotask(() => this.#attempt());
  }

  get unsent() {
    return this.#unsent;
  }

  /** Whether a request is in flight. It cannot be cancelled; only its reply can be stopped. */
  get isSending() {
    return this.#isSending;
  }

  /** @param {DeliveryListener | null} listener */
  set listener(listener) {
    this.#listener = listener;
    if (this.#isSending) listener?.onAttempt();
  }

  retryNow() {
    this.#retryTimer.retryNow();
  }

  /** Stop retrying and remove the prompt from the outbox. */
  cancel() {
    this.#end();
    removeFromOutbox(this.#unsent.key);
  }

  async #attempt() {
    if (this.#isSending || this.#isEnded) return;
    this.#isSending = true;
    this.#listener?.onAttempt();
    try {
      const location = await withConversationLock(this.#unsent.appID, () => this.#send());
      this.#handleSuccess(location);
    } catch (error) {
      this.#handleError(error);
    } finally {
      this.#isSending = false;
    }
  }

  /** @returns {Promise<string | null>} null: another tab has sent or cancelled it */
  async #send() {
    const { key, appID, messages } = this.#unsent;
    if (messages.length) {
      const unsent = findInOutbox(key);
      if (!unsent) return null;
      this.#unsent = unsent;
    }
    if (this.#unsent.replaceFrom !== null) {
      await this.#deleteReplaced();
      this.#unsent = { ...this.#unsent, replaceFrom: null }; // else the next attempt would delete what this one sends
      if (messages.length) saveToOutbox(this.#unsent);
      broadcastChange(appID);
    }
    const { model, options, contextFull } = this.#unsent;
    const location = await startReply(appID, model, messages, key, options, contextFull);
    removeFromOutbox(key); // before another tab gets the lock
    return location;
  }

  /** Delete the messages to replace, unless the conversation has new messages. */
  async #deleteReplaced() {
    const { appID, replaceFrom, lastSeq } = this.#unsent;
    const { messages } = await fetchHistory(appID, null, 1);
    if (messages.some(({ seq }) => seq > lastSeq)) throw new ApiError(CHANGED_ELSEWHERE, PRECONDITION_FAILED);
    await deleteMessagesFrom(appID, replaceFrom);
  }

  /** @param {string | null} location */
  #handleSuccess(location) {
    const listener = this.#listener;
    this.cancel();
    broadcastChange(this.#unsent.appID, !listener);
    if (location === null) listener?.onSettledElsewhere();
    else listener?.onAccepted(location);
  }

  /** @param {import("../../shared/api.js").ApiError} error */
  #handleError(error) {
    if (this.#isEnded) return;
    this.#error = error;
    if (error.isTransient) {
      this.#retryTimer.schedule(error.retryAfter);
    } else if (error.status === CONFLICT) {
      this.#retryTimer.reset();
      this.#retryTimer.schedule(CONFLICT_RETRY_DELAY);
      this.#listener?.onConflict(error.location);
    } else if (error.status === UNAUTHORIZED) {
      this.#end(); // it stays in the outbox until the user has signed in again
    } else if (this.#listener) {
      const listener = this.#listener;
      this.cancel();
      listener.onRejected(error);
    } else {
      this.#end(); // it stays in the outbox until its conversation is shown
    }
  }

  #handleTick(seconds) {
    if (this.#error.isTransient) this.#listener?.onRetryScheduled(this.#error, seconds);
  }

  #end() {
    this.#isEnded = true;
    this.#retryTimer.dispose();
    deliveries.delete(this.#unsent.key);
  }
}

/**
 * Run `task` while no other tab delivers to the conversation. Web Locks need a secure context; without them, the
 * idempotency keys still prevent duplicates.
 */
function withConversationLock(appID, task) {
  return navigator.locks ? navigator.locks.request(`chatterd.deliver.${appID}`, task) : task();
}
