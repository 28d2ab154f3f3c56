// Carries deletions out: the server forgets a conversation once this can no longer be undone, whatever happens between.
//
// A deletion is a mark on the conversation's entry. The tab in which it was made sends it when the time to undo it has
// passed, or when the page is left; the entry stays, out of sight, until the server has said that it forgot. Whatever
// a tab could not finish, because the machine died or the server was away, the next one that opens does.

import { cancelDeliveries } from "./composer/delivery.js";
import { UNDO_TIME, forgetDraft } from "./sidebar/conversation_store.js";
import { forgetConversation } from "../shared/api.js";

const GRACE = 5_000; // for the tab that offers to undo it, before another one steps in
const RETRY = 30_000;

export class Deletions {
  #list;
  #timers = new Map();
  #sending = new Set();
  #mine = new Set();
  #retry = 0;

  /** @param {import("./sidebar/conversation_store.js").ConversationList} list */
  constructor(list) {
    this.#list = list;
    list.addEventListener("change", () => this.#plan());
    addEventListener("online", () => this.#sendBuried());
    addEventListener("pagehide", () => this.#leave());
    this.#plan();
    this.#sendBuried();
  }

  /** @param {string} appID */
  delete(appID) {
    this.#mine.add(appID);
    this.#list.delete(appID);
  }

  /** See that each mark is acted on in time, whichever tab made it. */
  #plan() {
    const due = new Map(this.#list.deleted.filter(({ gone }) => !gone).map(({ appID, deleted }) => [appID, deleted]));
    for (const [appID, { timer, deleted }] of this.#timers) {
      if (due.get(appID) === deleted) continue;
      clearTimeout(timer);
      this.#timers.delete(appID);
    }
    for (const [appID, deleted] of due) {
      if (this.#timers.has(appID)) continue;
      const grace = this.#mine.has(appID) ? 0 : GRACE;
      const left = Math.min(deleted + UNDO_TIME - Date.now(), UNDO_TIME) + grace; // clocks may have been set back
      this.#timers.set(appID, { timer: setTimeout(() => this.#carryOut(appID, deleted), left), deleted });
    }
    if (this.#list.deleted.some(({ gone }) => gone)) this.#retry ||= setTimeout(() => this.#sendBuried(), RETRY);
  }

  /** @param {string} appID @param {number} deleted the deletion that is meant: it may have been undone and made anew */
  #carryOut(appID, deleted) {
    this.#timers.delete(appID);
    if (this.#list.find(appID)?.deleted !== deleted) return;
    this.#list.bury(appID); // first: from here on nobody is offered to undo it
    forgetDraft(appID);
    cancelDeliveries(appID); // an unsent prompt would bring it back
    this.#send(appID);
  }

  #leave() {
    for (const [appID, { deleted }] of [...this.#timers]) {
      if (this.#mine.has(appID)) this.#carryOut(appID, deleted);
    }
  }

  #sendBuried() {
    clearTimeout(this.#retry);
    this.#retry = 0;
    for (const { appID, gone } of this.#list.deleted) if (gone) this.#send(appID);
  }

  async #send(appID) {
    if (this.#sending.has(appID)) return;
    this.#sending.add(appID);
    try {
      await forgetConversation(appID);
      this.#list.drop(appID);
    } catch {
      this.#plan(); // the server is away
    } finally {
      this.#sending.delete(appID);
      this.#mine.delete(appID);
    }
  }
}
