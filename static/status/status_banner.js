// What is wrong, in words, on top of the page; and whose figures they are.

import { make } from "../shared/dom.js";
import { signInAddress } from "../shared/session.js";
import { duration } from "./format.js";

export class Verdict {
  #element;
  #sentences;
  #source;
  #announcer;
  #told = "";

  /** @param {HTMLElement} element @param {HTMLElement} announcer reads out what changes, not every second's number */
  constructor(element, announcer) {
    this.#element = element;
    this.#sentences = element.querySelector("ul");
    this.#source = element.querySelector("p");
    this.#announcer = announcer;
  }

  /** @param {import("./status_feed.js").Now} now */
  show({ troubles, database, ollama, process, uptime }) {
    this.#source.textContent = `Live figures of process ${process}, up for ${duration(uptime)}.`;
    if (troubles.length) {
      const mood = troubles.some(({ serious }) => serious) ? "bad" : "warning";
      this.#say(mood, troubles.map(({ kind }) => kind).join(), ...troubles.map(({ sentence }) => sentence));
    } else if (database.state === "unknown" || ollama.state === "unknown") {
      this.#say("unknown", "unknown", "Looking at the database and Ollama …");
    } else {
      this.#say("well", "well", "All is well.");
    }
  }

  /** Say that these figures are not for who is signed in. @param {string} sentence */
  showRefusal(sentence) {
    this.#say("old", "refused", sentence);
    const link = Object.assign(make("a", "", "Sign in as somebody else."), { href: signInAddress() });
    this.#source.replaceChildren(link);
  }

  /** Say that there is nothing new. @param {number | null} seconds since when; null if there never was anything */
  showOld(seconds) {
    if (seconds === null) this.#say("old", "old", "The server does not answer yet. Trying again …");
    else {
      const age = duration(seconds);
      this.#say("old", "old", `The server does not answer. These figures are ${age} old. Trying again …`);
    }
  }

  #say(mood, kinds, ...sentences) {
    this.#element.dataset.mood = mood;
    this.#sentences.replaceChildren(...sentences.map((sentence) => make("li", "", sentence)));
    if (kinds === this.#told) return;
    this.#told = kinds;
    this.#announcer.textContent = sentences.join(" ");
    document.title = `${mood === "well" || mood === "unknown" ? "" : "(!) "}chatterd status`;
  }
}
