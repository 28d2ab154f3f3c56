// The messages on the page, from the oldest loaded to the newest, and what is said around them.

import { Turn } from "./message_item.js";
import { MessageView, makeImages, makeSystemMessage } from "./message_view.js";
import { ReplyView } from "./reply_view.js";
import { endingOf } from "../reply/reply_follower.js";
import { ReplyStatus } from "../reply/reply_status.js";
import { makeButton, makeNotice } from "../../shared/dom.js";

/** @typedef {import("../../shared/api.js").Message} Message */
/** @typedef {import("../../shared/api.js").History} History */

export class Transcript {
  #messages;
  #notices;
  #welcome;
  #earlier;
  #scroll;
  /** In the order in which they are shown. @type {Turn[]} */
  #turns = [];

  /** @param {HTMLElement} root @param {import("./auto_scroll.js").PinnedScroll} scroll */
  constructor(root, scroll) {
    this.#messages = root.querySelector("#messages");
    this.#notices = root.querySelector("#notices");
    this.#welcome = root.querySelector("#welcome");
    this.#earlier = root.querySelector("#earlier");
    this.#scroll = scroll;
  }

  /** Show a conversation as it stands. @param {History} history */
  show(history) {
    this.#turns = [];
    this.#messages.replaceChildren();
    this.update(history);
    this.#notices.replaceChildren();
    this.#scroll.pin();
  }

  /** Show nothing until a conversation has been loaded. */
  clear() {
    this.show({ messages: [], reply: null, before: null });
    this.#welcome.hidden = true;
  }

  /**
   * Bring what is shown up to date. What has not changed stays the same element: with its focus, its selection, its place.
   *
   * @param {History} history the newest page
   * @param {Turn[]} coming turns that the server may not tell of yet; they stay, in their order, at the end
   */
  update(history, coming = []) {
    const known = new Map(this.#turns.filter(({ id }) => id).map((turn) => [turn.id, turn]));
    const unnamed = this.#turns.filter((turn) => !turn.id && !coming.includes(turn));
    const older = this.#olderThan(history);
    const shown = history.messages.map((message) => {
      const twin = unnamed.findIndex(({ role, source }) => role === message.role && source === message.content);
      const turn = known.get(message.id) ?? (twin < 0 ? turnOf(message) : unnamed.splice(twin, 1)[0]);
      turn.name(message);
      return turn;
    });
    this.#arrange([...older, ...shown, ...this.#failed(shown), ...coming.filter((turn) => !shown.includes(turn))]);
    if (!older.length) this.#earlier.hidden = history.before === null;
    this.#tellErrors();
  }

  /** Add an older page above. @param {History} history */
  prepend(history) {
    this.#scroll.keepPlace(() => this.#arrange([...history.messages.map(named), ...this.#turns]));
    this.#earlier.hidden = history.before === null;
  }

  /** @param {Message} message @returns {Turn} */
  addMessage(message) {
    return this.#add(turnOf(message));
  }

  /** @param {number | null} asked when the reply was asked for, as performance.now() @returns {Turn} */
  addReply(asked = null) {
    const view = new ReplyView(asked);
    const turn = new Turn("assistant", view.element, () => view.source, view.status);
    turn.view = view;
    return this.#add(turn);
  }

  /** @param {string} id @returns {Turn | undefined} */
  find(id) {
    return this.#turns.find((turn) => turn.id === id);
  }

  /** @param {...Turn} turns */
  remove(...turns) {
    this.#arrange(this.#turns.filter((turn) => !turns.includes(turn)));
  }

  /** The number of the newest message that the server has told of; 0 if there is none. */
  get lastSeq() {
    return Math.max(0, ...this.#turns.map(({ seq }) => seq ?? 0));
  }

  /** @param {number} from the number of the message that goes with all after it */
  removeFrom(from) {
    this.#arrange(this.#turns.filter(({ seq }) => seq === null || seq < from));
  }

  /** The newest message. @returns {Turn | undefined} */
  get last() {
    return this.#turns.at(-1);
  }

  /**
   * Offer to change the newest prompt and the newest answer, and nothing else.
   *
   * @param {object | null} actions null: not now
   * @param {(turn: Turn, text: string) => void} actions.onEdit
   * @param {(turn: Turn) => void} actions.onAgain
   */
  offer(actions) {
    const prompt = this.#turns.findLast(({ role }) => role === "user");
    for (const turn of this.#turns) {
      const isAnswer = turn === this.last && turn.role === "assistant" && turn.seq !== null;
      turn.offer({
        onEdit: actions && turn === prompt ? (text) => actions.onEdit(turn, text) : undefined,
        onAgain: actions && isAnswer ? () => actions.onAgain(turn) : undefined,
      });
    }
  }

  /** Say something below the messages, in place of what was said there. @param {HTMLElement} notice */
  notify(notice) {
    this.#notices.replaceChildren(notice);
  }

  /** Say that the newest prompt has no reply, or that no longer. @param {(() => void) | null} onRetry */
  tellUnanswered(onRetry) {
    const notice = this.#notices.querySelector(".unanswered");
    if (!onRetry) notice?.remove();
    else if (!notice) {
      this.notify(makeNotice("There is no reply to this message.", makeButton("Try again", onRetry)));
      this.#notices.firstElementChild.classList.add("unanswered");
    }
  }

  /** Take back notices, offers and failures that said nothing: the conversation goes on. */
  settle() {
    this.#notices.replaceChildren();
    for (const turn of this.#turns) turn.settle();
    if (this.last?.view && this.last.seq === null) this.remove(this.last);
    this.#updateWelcome();
  }

  /** Greet where there is nothing yet. */
  #updateWelcome() {
    this.#welcome.hidden = this.#turns.length > 0;
  }

  /** What is shown of before the history's page, if they meet. @param {History} history */
  #olderThan({ messages, before }) {
    if (before === null || !this.#turns.some(({ id }) => id === messages[0].id)) return [];
    return this.#turns.filter(({ seq }) => seq !== null && seq < before);
  }

  /** A reply that left no message, while nothing came after it: its error is the newest thing to read. */
  #failed(shown) {
    const last = this.last;
    const stays = last?.view && last.seq === null && shown.length > 0 && shown.at(-1).role !== "assistant";
    return stays && this.#turns.at(-2) === shown.at(-1) ? [last] : [];
  }

  /** What went wrong matters, and can be tried again, while nothing came after it. */
  #tellErrors() {
    for (const turn of this.#turns) if (turn !== this.last) turn.settle();
    if (this.last?.message?.error) this.last.tellError(this.last.message.error);
  }

  #add(turn) {
    this.#arrange([...this.#turns, turn]);
    this.#scroll.pin();
    return turn;
  }

  /** @param {Turn[]} turns */
  #arrange(turns) {
    this.#turns = [...new Set(turns)];
    const elements = new Set(this.#turns.map(({ element }) => element));
    for (const child of [...this.#messages.children]) if (!elements.has(child)) child.remove();
    let place = this.#messages.firstElementChild;
    for (const element of elements) {
      if (element === place) place = place.nextElementSibling;
      else this.#messages.insertBefore(element, place);
    }
    this.#updateWelcome();
  }
}

/** @param {Message} message */
function named(message) {
  const turn = turnOf(message);
  turn.name(message);
  return turn;
}

/** @param {Message} message */
function turnOf(message) {
  const status = new ReplyStatus();
  const turn = new Turn(message.role, viewOf(message), () => message.content, status);
  const { sentence } = endingOf(message);
  if (sentence) status.end({ sentence });
  return turn;
}

/** @param {Message} message */
function viewOf({ role, content, thinking, images }) {
  if (role === "system") return makeSystemMessage(content);
  const { element } = new MessageView(role, content, thinking);
  if (images?.length) element.prepend(makeImages(images));
  return element;
}
