// The list of conversations on the page: drawn anew whenever it changes, here or in another tab.

import { makeItem } from "./conversation_item.js";
import { make } from "../../shared/dom.js";

const DAY = 86_400_000;

export class Sidebar {
  #list;
  #box;
  #search;
  #found;
  #actions;
  #current = "";
  #running = new Set();

  /**
   * @param {HTMLElement} root
   * @param {import("./conversation_store.js").ConversationList} list
   * @param {{open: (appID: string) => void, remove: (appID: string) => void}} handlers
   */
  constructor(root, list, handlers) {
    this.#list = list;
    this.#box = root.querySelector("#conversations");
    this.#search = root.querySelector("#search");
    this.#found = root.querySelector("#found");
    this.#actions = {
      open: handlers.open,
      remove: (appID) => this.#changeAndFocus(appID, () => handlers.remove(appID)),
      undo: (appID) => this.#changeAndFocus(appID, () => list.undo(appID)),
      rename: (appID, title, byKey) => this.#rename(appID, title, byKey),
    };
    list.addEventListener("change", () => this.#draw());
    this.#search.addEventListener("input", () => this.#draw());
    this.#search.addEventListener("keydown", (event) => this.#takeSearchKey(event));
    this.#box.addEventListener("keydown", (event) => this.#takeKey(event));
    this.#draw();
  }

  /** @param {string} appID the conversation that is shown */
  set current(appID) {
    this.#current = appID;
    this.#draw();
  }

  /** @param {Set<string>} appIDs the conversations that are known to be answered right now */
  set running(appIDs) {
    this.#running = appIDs;
    this.#draw();
  }

  #draw() {
    if (this.#box.querySelector(".editing")) return; // nobody's typing is interrupted; its end draws anew
    const focused = document.activeElement.closest("[data-appid]");
    const place = [...this.#box.querySelectorAll("li")].indexOf(focused);
    const entries = this.#list.entries.filter((entry) => matches(entry, this.#search.value));
    this.#box.replaceChildren(...this.#grouped(entries));
    this.#found.textContent = tell(entries.length, this.#search.value);
    if (place >= 0) this.#focus(focused.dataset.appid, place);
  }

  /** @param {import("./conversation_store.js").Entry[]} entries */
  #grouped(entries) {
    const groups = new Map();
    for (const entry of entries) {
      const period = periodOf(entry.used);
      const state = { isCurrent: entry.appID === this.#current, isRunning: this.#running.has(entry.appID) };
      groups.set(period, [...(groups.get(period) ?? []), makeItem(entry, state, this.#actions)]);
    }
    return [...groups].map(([period, items]) => make("section", "", make("h2", "", period), make("ul", "", ...items)));
  }

  /** Change one conversation's item, and leave the keyboard where it was in the list. */
  #changeAndFocus(appID, change) {
    change();
    this.#focus(appID, 0);
  }

  #rename(appID, title, byKey) {
    this.#box.querySelector(".editing").classList.remove("editing");
    this.#list.change(appID, { title });
    if (byKey) this.#focus(appID, 0);
  }

  /** @param {string} appID @param {number} place whose item has the focus if the conversation's is gone */
  #focus(appID, place) {
    const items = [...this.#box.querySelectorAll("li")];
    const item = items.find((one) => one.dataset.appid === appID) ?? items[Math.min(place, items.length - 1)];
    item?.querySelector("a, .undo")?.focus();
  }

  /** Arrows go from one conversation to the next. */
  #takeKey(event) {
    if (!["ArrowDown", "ArrowUp"].includes(event.key) || event.target.matches("input")) return;
    const stops = [...this.#box.querySelectorAll("a, .undo")];
    const here = stops.indexOf(event.target.closest("li")?.querySelector("a, .undo"));
    const next = here + (event.key === "ArrowDown" ? 1 : -1);
    event.preventDefault();
    if (next < 0) this.#search.focus();
    else stops[next]?.focus();
  }

  #takeSearchKey(event) {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      this.#box.querySelector("a, .undo")?.focus();
    } else if (event.key === "Escape" && this.#search.value) {
      event.preventDefault();
      this.#search.value = "";
      this.#draw();
    }
  }
}

/** @param {import("./conversation_store.js").Entry} entry @param {string} wanted */
function matches({ title, prompt }, wanted) {
  const text = plain(`${title}\n${prompt}`);
  return plain(wanted).split(/\s+/).every((word) => text.includes(word));
}

/** Without accents and capitals. @param {string} text */
function plain(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

/** @param {number} count @param {string} wanted */
function tell(count, wanted) {
  if (!wanted.trim()) return count ? "" : "Your conversations will be listed here.";
  if (!count) return "No conversation has these words in its title or first message.";
  return count === 1 ? "1 conversation found." : `${count} conversations found.`;
}

/** @param {number} time in ms since 1970 */
function periodOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  return time >= midnight - 6 * DAY ? "Last 7 days" : "Earlier";
}
