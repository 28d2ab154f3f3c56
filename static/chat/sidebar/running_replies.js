// Tracks which conversations have a running reply, among those that were shown in this tab.

import { fetchHistory } from "../../shared/api.js";

const POLL_INTERVAL = 4_000; // milliseconds

export class RunningReplies {
  #onChange;
  #shown = { appID: "", busy: false };
  #inBackground = new Set();
  #timer = 0;

  /** @param {(appIDs: Set<string>) => void} onChange */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** Set the conversation on the page and whether it has a running reply. @param {string} appID @param {boolean} busy */
  show(appID, busy) {
    if (this.#shown.appID !== appID && this.#shown.busy) this.#inBackground.add(this.#shown.appID);
    this.#inBackground.delete(appID);
    this.#shown = { appID, busy };
    this.#notify();
    if (this.#inBackground.size && !this.#timer) this.#timer = setTimeout(() => this.#poll(), POLL_INTERVAL);
  }

  /** Poll the conversations in the background until their replies have ended. */
  async #poll() {
    for (const appID of [...this.#inBackground]) {
      const history = await fetchHistory(appID, null, 1).catch(() => null);
      if (history && !history.reply) this.#inBackground.delete(appID);
    }
    this.#notify();
    this.#timer = this.#inBackground.size ? setTimeout(() => this.#poll(), POLL_INTERVAL) : 0;
  }

  #notify() {
    this.#onChange(new Set([...this.#inBackground, ...(this.#shown.busy ? [this.#shown.appID] : [])]));
  }
}
