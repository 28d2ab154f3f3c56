// Deletes conversations on the server once the time to undo has passed.
//
// A deletion is a timestamp on the conversation's entry in the store. The tab that made it sends the request when the
// time to undo has passed, or when the page is unloaded. The entry stays in the store, hidden, until the server has
// confirmed. A deletion that a tab could not finish (crash, server unreachable) is finished by the next tab that opens.

import { cancelDeliveries } from "./composer/delivery.js";
import { UNDO_TIMEOUT, deleteDraft } from "./sidebar/conversation_store.js";
import { deleteConversation } from "../shared/api.js";

const OTHER_TAB_DELAY = 5_000; // milliseconds that other tabs wait for the tab that offers to undo
const RETRY_INTERVAL = 30_000;

export class DeletionQueue {
  #store;
  #timers = new Map();
  #sending = new Set();
  #own = new Set(); // deletions made in this tab
  #retryTimer = 0;

  /** @param {import("./sidebar/conversation_store.js").ConversationStore} store */
  constructor(store) {
    this.#store = store;
    store.addEventListener("change", () => this.#schedule());
    addEventListener("online", () => this.#sendCommitted());
    addEventListener("pagehide", () => this.#commitOwn());
    this.#schedule();
    this.#sendCommitted();
  }

  /** @param {string} appID */
  delete(appID) {
    this.#own.add(appID);
    this.#store.delete(appID);
  }

  /** Set a timer for each pending deletion, whichever tab made it. */
  #schedule() {
    const pending = this.#store.deleted.filter(({ isPurging }) => !isPurging);
    const due = new Map(pending.map(({ appID, deletedAt }) => [appID, deletedAt]));
    for (const [appID, { timer, deletedAt }] of this.#timers) {
      if (due.get(appID) === deletedAt) continue;
      clearTimeout(timer);
      this.#timers.delete(appID);
    }
    for (const [appID, deletedAt] of due) {
      if (this.#timers.has(appID)) continue;
      const delay = this.#own.has(appID) ? 0 : OTHER_TAB_DELAY;
      const left = Math.min(deletedAt + UNDO_TIMEOUT - Date.now(), UNDO_TIMEOUT) + delay; // the clock may have been set back
      this.#timers.set(appID, { timer: setTimeout(() => this.#commit(appID, deletedAt), left), deletedAt });
    }
    if (this.#store.deleted.some(({ isPurging }) => isPurging)) {
      this.#retryTimer ||= setTimeout(() => this.#sendCommitted(), RETRY_INTERVAL);
    }
  }

  /** @param {string} appID @param {number} deletedAt skip if the deletion was undone, or undone and made again */
  #commit(appID, deletedAt) {
    this.#timers.delete(appID);
    if (this.#store.find(appID)?.deletedAt !== deletedAt) return;
    this.#store.commitDelete(appID); // first, so that no tab offers to undo it any more
    deleteDraft(appID);
    cancelDeliveries(appID); // an unsent prompt would recreate the conversation
    this.#send(appID);
  }

  #commitOwn() {
    for (const [appID, { deletedAt }] of [...this.#timers]) {
      if (this.#own.has(appID)) this.#commit(appID, deletedAt);
    }
  }

  #sendCommitted() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = 0;
    for (const { appID, isPurging } of this.#store.deleted) if (isPurging) this.#send(appID);
  }

  async #send(appID) {
    if (this.#sending.has(appID)) return;
    this.#sending.add(appID);
    try {
      await deleteConversation(appID);
      this.#store.remove(appID);
    } catch {
      this.#schedule(); // the server is unreachable
    } finally {
      this.#sending.delete(appID);
      this.#own.delete(appID);
    }
  }
}
