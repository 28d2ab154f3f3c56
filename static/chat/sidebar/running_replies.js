// Which conversations are being answered right now, as far as this tab has seen replies begin.

import { fetchHistory } from "../../shared/api.js";

const PAUSE = 4_000;

export class RunningReplies {
  #onChange;
  #shown = { appID: "", busy: false };
  #left = new Set();
  #timer = 0;

  /** @param {(appIDs: Set<string>) => void} onChange */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  /** Look at the conversation on the page. @param {string} appID @param {boolean} busy */
  show(appID, busy) {
    if (this.#shown.appID !== appID && this.#shown.busy) this.#left.add(this.#shown.appID);
    this.#left.delete(appID);
    this.#shown = { appID, busy };
    this.#tell();
    if (this.#left.size && !this.#timer) this.#timer = setTimeout(() => this.#ask(), PAUSE);
  }

  /** Ask about the conversations that were left, until their replies have ended. */
  async #ask() {
    for (const appID of [...this.#left]) {
      const history = await fetchHistory(appID, null, 1).catch(() => null);
      if (history && !history.reply) this.#left.delete(appID);
    }
    this.#tell();
    this.#timer = this.#left.size ? setTimeout(() => this.#ask(), PAUSE) : 0;
  }

  #tell() {
    this.#onChange(new Set([...this.#left, ...(this.#shown.busy ? [this.#shown.appID] : [])]));
  }
}
