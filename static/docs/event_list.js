// The events of a stream: the reply's text so far, and the newest events.

import { make } from "../shared/dom.js";
import { createParser } from "../vendor/eventsource-parser/parse.js";

const MAX_EVENTS = 300;
const MAX_TEXT = 200_000; // characters

export class EventList {
  #text = make("p", "text");
  #list = make("ol", "events");
  #count = make("p", "caption");
  #events = 0;
  /** @type {Node[]} elements to add in the next frame */
  #pending = [];
  #replyText = "";
  #parser = createParser({
    onEvent: (event) => this.#handleEvent(event),
    onComment: (comment) => this.#pending.push(make("li", "comment", `: ${comment.trim()}`)),
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

  /** @param {string} chunk */
  feed(chunk) {
    const idle = !this.#pending.length;
    this.#parser.feed(chunk);
    if (idle && this.#pending.length) requestAnimationFrame(() => this.#render());
  }

  /** @param {{id?: string, event?: string, data: string}} event */
  #handleEvent({ id = "", event = "", data }) {
    this.#events += 1;
    const title = make("span", "id", [id && `id ${id}`, event].filter(Boolean).join(", "));
    this.#pending.push(make("li", event === "error" ? "error" : "", title, " ", make("code", "", data)));
    if (!event) this.#replyText += contentOf(data);
    this.#trim();
  }

  /** Limit memory where no frames are rendered, as in a hidden tab. */
  #trim() {
    if (this.#pending.length > 2 * MAX_EVENTS) this.#pending.splice(0, MAX_EVENTS);
    if (this.#replyText.length > 2 * MAX_TEXT) this.#replyText = this.#replyText.slice(-MAX_TEXT);
  }

  #render() {
    const atEnd = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 4;
    this.#list.append(...this.#pending.splice(0).slice(-MAX_EVENTS));
    while (this.#list.childElementCount > MAX_EVENTS) this.#list.firstElementChild.remove();
    if (atEnd) this.#list.scrollTop = this.#list.scrollHeight;
    this.#text.hidden = !this.#replyText;
    this.#text.textContent = this.#replyText.slice(-MAX_TEXT);
    this.#count.textContent = this.#events === 1 ? "1 event" : `${this.#events} events`;
  }
}

/** The text in a line of a reply. @param {string} data @returns {string} */
function contentOf(data) {
  try {
    return JSON.parse(data).message?.content ?? "";
  } catch {
    return "";
  }
}
