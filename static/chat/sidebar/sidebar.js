// The list of conversations: rendered again whenever it changes, in this tab or another.

import { makeItem } from "./conversation_item.js";
import { make } from "../../shared/dom.js";

const DAY = 86_400_000; // milliseconds

export class Sidebar {
  #store;
  #list;
  #search;
  #searchResult;
  #actions;
  #current = "";
  #running = new Set();

  /**
   * @param {HTMLElement} root
   * @param {import("./conversation_store.js").ConversationStore} store
   * @param {{open: (appID: string) => void, remove: (appID: string) => void}} handlers
   */
  constructor(root, store, handlers) {
    this.#store = store;
    this.#list = root.querySelector("#conversations");
    this.#search = root.querySelector("#search");
    this.#searchResult = root.querySelector("#search-result");
    this.#actions = {
      open: handlers.open,
      remove: (appID) => this.#changeAndFocus(appID, () => handlers.remove(appID)),
      undo: (appID) => this.#changeAndFocus(appID, () => store.undoDelete(appID)),
      rename: (appID, title, byKey) => this.#rename(appID, title, byKey),
    };
    store.addEventListener("change", () => this.#render());
    this.#search.addEventListener("input", () => this.#render());
    this.#search.addEventListener("keydown", (event) => this.#handleSearchKey(event));
    this.#list.addEventListener("keydown", (event) => this.#handleKey(event));
    this.#render();
  }

  /** @param {string} appID the conversation on the page */
  set current(appID) {
    this.#current = appID;
    this.#render();
  }

  /** @param {Set<string>} appIDs the conversations with a running reply */
  set running(appIDs) {
    this.#running = appIDs;
    this.#render();
  }

  #render() {
    if (this.#list.querySelector(".editing")) return; // do not interrupt typing; its end renders again
    const focused = document.activeElement.closest("[data-appid]");
    const index = [...this.#list.querySelectorAll("li")].indexOf(focused);
    const entries = this.#store.entries.filter((entry) => matches(entry, this.#search.value));
    this.#list.replaceChildren(...this.#makeGroups(entries));
    this.#searchResult.textContent = describeResult(entries.length, this.#search.value);
    if (index >= 0) this.#focus(focused.dataset.appid, index);
  }

  /** @param {import("./conversation_store.js").Entry[]} entries */
  #makeGroups(entries) {
    const groups = new Map();
    for (const entry of entries) {
      const period = periodOf(entry.lastUsedAt);
      const state = { isCurrent: entry.appID === this.#current, isRunning: this.#running.has(entry.appID) };
      groups.set(period, [...(groups.get(period) ?? []), makeItem(entry, state, this.#actions)]);
    }
    return [...groups].map(([period, items]) => make("section", "", make("h2", "", period), make("ul", "", ...items)));
  }

  /** Change an item and keep the focus on it. */
  #changeAndFocus(appID, change) {
    change();
    this.#focus(appID, 0);
  }

  #rename(appID, title, byKey) {
    this.#list.querySelector(".editing").classList.remove("editing");
    this.#store.update(appID, { title });
    if (byKey) this.#focus(appID, 0);
  }

  /** @param {string} appID @param {number} index of the item to focus if the conversation's is gone */
  #focus(appID, index) {
    const items = [...this.#list.querySelectorAll("li")];
    const item = items.find((one) => one.dataset.appid === appID) ?? items[Math.min(index, items.length - 1)];
    item?.querySelector("a, .undo")?.focus();
  }

  /** Move between conversations with the arrow keys. */
  #handleKey(event) {
    if (!["ArrowDown", "ArrowUp"].includes(event.key) || event.target.matches("input")) return;
    const targets = [...this.#list.querySelectorAll("a, .undo")];
    const current = targets.indexOf(event.target.closest("li")?.querySelector("a, .undo"));
    const next = current + (event.key === "ArrowDown" ? 1 : -1);
    event.preventDefault();
    if (next < 0) this.#search.focus();
    else targets[next]?.focus();
  }

  #handleSearchKey(event) {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      this.#list.querySelector("a, .undo")?.focus();
    } else if (event.key === "Escape" && this.#search.value) {
      event.preventDefault();
      this.#search.value = "";
      this.#render();
    }
  }
}

/** @param {import("./conversation_store.js").Entry} entry @param {string} query */
function matches({ title, firstPrompt }, query) {
  const text = normalize(`${title}\n${firstPrompt}`);
  return normalize(query).split(/\s+/).every((word) => text.includes(word));
}

/** Remove accents and case. @param {string} text */
function normalize(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

/** @param {number} count @param {string} query */
function describeResult(count, query) {
  if (!query.trim()) return count ? "" : "Your conversations appear here.";
  if (!count) return "No conversations found. The search covers titles and first messages.";
  return count === 1 ? "1 conversation found." : `${count} conversations found.`;
}

/** @param {number} time in ms since 1970 */
function periodOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  return time >= midnight - 6 * DAY ? "Last 7 days" : "Earlier";
}
