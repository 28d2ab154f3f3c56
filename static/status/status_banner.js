// The banner at the top: current problems, and the process that the data is from.

import { longDuration } from "./format.js";
import { make } from "../shared/dom.js";
import { signInUrl } from "../shared/session.js";

export class StatusBanner {
  #element;
  #messages;
  #source;
  #announcer;
  #announced = "";

  /** @param {HTMLElement} element @param {HTMLElement} announcer a live region for screen readers */
  constructor(element, announcer) {
    this.#element = element;
    this.#messages = element.querySelector("ul");
    this.#source = element.querySelector("p");
    this.#announcer = announcer;
  }

  /** @param {import("./status_feed.js").Update} update */
  show({ problems, database, ollama, process, uptime }) {
    this.#source.textContent = `Live data from process ${process}. Uptime: ${longDuration(uptime)}.`;
    if (problems.length) {
      const level = problems.some(({ severe }) => severe) ? "error" : "warning";
      this.#show(level, problems.map(({ kind }) => kind).join(), ...problems.map(({ message }) => message));
    } else if (database.state === "unknown" || ollama.state === "unknown") {
      this.#show("unknown", "unknown", "Checking the database and Ollama…");
    } else {
      this.#show("ok", "ok", "All systems normal");
    }
  }

  /** The signed-in user may not see the status. @param {string} message */
  showForbidden(message) {
    this.#show("stale", "forbidden", message);
    const link = Object.assign(make("a", "", "Sign in with another account"), { href: signInUrl() });
    this.#source.replaceChildren(link);
  }

  /** There is no new data. @param {number | null} seconds age of the shown data; null: there is none */
  showStale(seconds) {
    const age = seconds === null ? "" : ` This data is ${longDuration(seconds)} old.`;
    this.#show("stale", "stale", `Cannot reach the server.${age} Reconnecting…`);
  }

  /** Announce the messages only when `kinds` changes, not each new number in them. */
  #show(level, kinds, ...messages) {
    this.#element.dataset.level = level;
    this.#messages.replaceChildren(...messages.map((message) => make("li", "", message)));
    if (kinds === this.#announced) return;
    this.#announced = kinds;
    this.#announcer.textContent = messages.join(" ");
    document.title = `${level === "ok" || level === "unknown" ? "" : "(!) "}chatterd status`;
  }
}
