// The messages on the page, from the oldest loaded to the newest, and what is said around them.

import { make } from "./elements.js";
import { makeImages } from "./message_images.js";
import { MessageView } from "./message_view.js";
import { ReplyView } from "./reply_view.js";
import { makeSystemMessage } from "./system_message.js";

export class Transcript {
  #messages;
  #notices;
  #welcome;
  #earlier;
  #scroll;

  /** @param {HTMLElement} root @param {import("./pinned_scroll.js").PinnedScroll} scroll */
  constructor(root, scroll) {
    this.#messages = root.querySelector("#messages");
    this.#notices = root.querySelector("#notices");
    this.#welcome = root.querySelector("#welcome");
    this.#earlier = root.querySelector("#earlier");
    this.#scroll = scroll;
  }

  /** Show a conversation as it stands. @param {import("./api.js").History} history */
  show(history) {
    this.#messages.replaceChildren(...history.messages.map(viewOf));
    this.#earlier.hidden = history.before === null;
    this.settle();
    this.#scroll.pin();
  }

  /** Show nothing until a conversation has been loaded. */
  clear() {
    this.show({ messages: [], reply: null, before: null });
    this.#welcome.hidden = true;
  }

  /** Add an older page above. @param {import("./api.js").History} history */
  prepend(history) {
    this.#scroll.keepPlace(() => this.#messages.prepend(...history.messages.map(viewOf)));
    this.#earlier.hidden = history.before === null;
  }

  /** @param {import("./api.js").Message} message @returns {HTMLElement} */
  addMessage(message) {
    return this.#add(viewOf(message));
  }

  /** @returns {ReplyView} */
  addReply() {
    const view = new ReplyView();
    this.#add(view.element);
    return view;
  }

  /** Say something below the messages, in place of what was said there. @param {HTMLElement} notice */
  notify(notice) {
    this.#notices.replaceChildren(notice);
  }

  /** Take back notices and offers to try again: the conversation goes on. */
  settle() {
    this.#notices.replaceChildren();
    for (const offer of this.#messages.querySelectorAll(".retry")) offer.remove();
    this.updateWelcome();
  }

  /** Greet where there is nothing yet. */
  updateWelcome() {
    this.#welcome.hidden = this.#messages.hasChildNodes();
  }

  #add(element) {
    this.#messages.append(element);
    this.updateWelcome();
    this.#scroll.pin();
    return element;
  }
}

/** @param {import("./api.js").Message} message */
function viewOf({ role, content, thinking, images }) {
  if (role === "system") return makeSystemMessage(content);
  const { element } = new MessageView(role, content, thinking);
  if (images?.length) element.prepend(makeImages(images));
  return element;
}

/** A sentence below the messages. @param {string} sentence @param {...Node} actions */
export function makeNotice(sentence, ...actions) {
  return make("div", "notice", make("p", "", sentence), ...actions);
}
