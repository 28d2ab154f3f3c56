// A stream's events as they come: the reply's text so far, and each event by itself. Bounded: of a long stream the newest.

import { make } from "../shared/dom.js";
import { createParser } from "../vendor/eventsource-parser/parse.js";

const SHOWN = 300;
/** Events shown at once. */

const LIMIT = 200_000;
/** Characters of the reply shown at once. */

export class EventsView {
  #text = make("p", "text");
  #list = make("ol", "events");
  #count = make("p", "caption");
  #events = 0;
  /** @type {Node[]} what the next frame shows */
  #fresh = [];
  #words = "";
  #parser = createParser({
    onEvent: (event) => this.#take(event),
    onComment: (comment) => this.#fresh.push(make("li", "comment", `: ${comment.trim()}`)),
  });

  constructor() {
    this.#text.hidden = true;
    this.#list.tabIndex = 0;
    this.#list.setAttribute("aria-label", "Events");
    this.element = make("div", "", this.#text, this.#count, this.#list);
  }

  get count() {
    return this.#events;
  }

  /** @param {string} piece */
  feed(piece) {
    const idle = !this.#fresh.length;
    this.#parser.feed(piece);
    if (idle && this.#fresh.length) requestAnimationFrame(() => this.#draw());
  }

  /** @param {{id?: string, event?: string, data: string}} event */
  #take({ id = "", event = "", data }) {
    this.#events += 1;
    const title = make("span", "id", [id && `id ${id}`, event].filter(Boolean).join(", "));
    this.#fresh.push(make("li", event === "error" ? "failed" : "", title, " ", make("code", "", data)));
    if (!event) this.#words += contentOf(data);
    this.#forget();
  }

  /** Keep no more than is shown, also where no frame is drawn: in a tab that nobody sees. */
  #forget() {
    if (this.#fresh.length > 2 * SHOWN) this.#fresh.splice(0, SHOWN);
    if (this.#words.length > 2 * LIMIT) this.#words = this.#words.slice(-LIMIT);
  }

  #draw() {
    const atEnd = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 4;
    this.#list.append(...this.#fresh.splice(0).slice(-SHOWN));
    while (this.#list.childElementCount > SHOWN) this.#list.firstElementChild.remove();
    if (atEnd) this.#list.scrollTop = this.#list.scrollHeight;
    this.#text.hidden = !this.#words;
    this.#text.textContent = this.#words.slice(-LIMIT);
    this.#count.textContent = this.#events === 1 ? "1 event" : `${this.#events} events`;
  }
}

/** What a line of a reply says. @param {string} data @returns {string} */
function contentOf(data) {
  try {
    return JSON.parse(data).message?.content ?? "";
  } catch {
    return "";
  }
}
