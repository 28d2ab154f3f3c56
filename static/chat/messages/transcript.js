// The list of messages on the page, with the notices below it.

import { MemoryStart } from "./memory_start.js";
import { MessageItem } from "./message_item.js";
import { MessageView, makeImages, makeSystemMessage } from "./message_view.js";
import { ReplyView } from "./reply_view.js";
import { contextOf } from "../context/context_text.js";
import { outcomeOf } from "../reply/reply_follower.js";
import { ReplyStatus } from "../reply/reply_status.js";
import { makeButton, makeNotice } from "../../shared/dom.js";

/** @typedef {import("../../shared/api.js").Message} Message */
/** @typedef {import("../../shared/api.js").History} History */

export class Transcript {
  #messages;
  #notices;
  #welcome;
  #loadEarlier;
  #scroll;
  #memoryStart = new MemoryStart();
  /** What the model sees. @type {import("../../shared/api.js").Context | null} */
  #context = null;
  /** In display order. @type {MessageItem[]} */
  #items = [];

  /** @param {HTMLElement} root @param {import("./auto_scroll.js").AutoScroll} scroll */
  constructor(root, scroll) {
    this.#messages = root.querySelector("#messages");
    this.#notices = root.querySelector("#notices");
    this.#welcome = root.querySelector("#welcome");
    this.#loadEarlier = root.querySelector("#load-earlier");
    this.#scroll = scroll;
  }

  /** Replace everything shown by a conversation. @param {History} history */
  show(history) {
    this.#items = [];
    this.#messages.replaceChildren();
    this.update(history);
    this.#notices.replaceChildren();
    this.#scroll.scrollToEnd();
  }

  /** Show nothing until a conversation is loaded. */
  clear() {
    this.show({ messages: [], reply: null, before: null });
    this.#welcome.hidden = true;
  }

  /**
   * Show changes. Unchanged messages keep their elements, and with them focus, selection and scroll position.
   *
   * @param {History} history the newest page
   * @param {MessageItem[]} unstored items that the history may not contain yet; they stay at the end, in their order
   */
  update(history, unstored = []) {
    this.#context = contextOf(history);
    const { summary = null } = history;
    this.#memoryStart.show(summary && summary.until < (this.#context?.from ?? 0) ? summary : null);
    const stored = new Map(history.messages.map((message) => [message.id, message]));
    const isCurrent = (item) => unstored.includes(item) || !item.isOutdated(stored.get(item.id));
    const known = this.#items.filter(({ id }) => stored.has(id));
    const current = new Map(known.filter(isCurrent).map((item) => [item.id, item]));
    const withoutId = this.#items.filter((item) => !item.id && !unstored.includes(item));
    const older = this.#itemsBefore(history);
    const shown = history.messages.map((message) => {
      const match = withoutId.findIndex(({ role, source }) => role === message.role && source === message.content);
      const item = current.get(message.id) ?? (match < 0 ? makeItem(message) : withoutId.splice(match, 1)[0]);
      item.assign(message);
      return item;
    });
    this.#arrange([...older, ...shown, ...this.#failedItems(shown), ...unstored.filter((item) => !shown.includes(item))]);
    if (!older.length) this.#loadEarlier.hidden = history.before === null;
    this.#showLastError();
  }

  /** Add an older page at the top. @param {History} history */
  prepend(history) {
    const items = history.messages.map((message) => {
      const item = makeItem(message);
      item.assign(message);
      return item;
    });
    const rendered = Promise.all(items.map((item) => item.rendered));
    this.#scroll.keepPosition(() => this.#arrange([...items, ...this.#items]), rendered);
    this.#loadEarlier.hidden = history.before === null;
  }

  /** @param {Message} message @returns {MessageItem} */
  addMessage(message) {
    return this.#add(makeItem(message));
  }

  /** @param {number | null} requestedAt `performance.now()` of the request; null: unknown @returns {MessageItem} */
  addReply(requestedAt = null) {
    return this.#add(makeReplyItem(new ReplyView(requestedAt)));
  }

  /**
   * Show a reply that continues a stored message: in the same place, after its text.
   *
   * @param {Message} message
   * @param {number | null} requestedAt
   * @returns {MessageItem}
   */
  continueReply(message, requestedAt = null) {
    const item = makeReplyItem(new ReplyView(requestedAt, message));
    item.assign(message);
    const shown = this.#items.find(({ id }) => id === message.id);
    if (!shown) return this.#add(item);
    this.replace(shown, item);
    return item;
  }

  /** @param {MessageItem} shown @param {MessageItem} item to show in its place */
  replace(shown, item) {
    this.#arrange(this.#items.map((one) => (one === shown ? item : one)));
  }

  /** The item that shows a reply. @param {string} id of the reply @returns {MessageItem | undefined} */
  find(id) {
    return this.#items.find((item) => (item.replyId ?? item.id) === id);
  }

  /** The stored message that the next reply continues: the newest, if the model wrote it. @returns {MessageItem | null} */
  get continuable() {
    return this.last?.role === "assistant" && this.last.seq !== null ? this.last : null;
  }

  /** @param {...MessageItem} items */
  remove(...items) {
    this.#arrange(this.#items.filter((item) => !items.includes(item)));
  }

  /** `seq` of the newest stored message; 0 if there is none. */
  get lastSeq() {
    return Math.max(0, ...this.#items.map(({ seq }) => seq ?? 0));
  }

  /** Remove the message with this `seq` and all later ones. @param {number} from */
  removeFrom(from) {
    this.#arrange(this.#items.filter(({ seq }) => seq === null || seq < from));
  }

  /** The newest message, if it is a prompt, whatever failed replies to it are shown. @returns {MessageItem | undefined} */
  get unansweredPrompt() {
    const last = this.#items.findLast(({ view, seq }) => !view || seq !== null);
    return last?.role === "user" ? last : undefined;
  }

  /** The newest message. @returns {MessageItem | undefined} */
  get last() {
    return this.#items.at(-1);
  }

  /**
   * Allow to edit the last prompt and the summary, and to regenerate the last reply.
   *
   * @param {object | null} actions null: none of it
   * @param {(item: MessageItem, text: string) => void} actions.onEdit
   * @param {(item: MessageItem) => void} actions.onRegenerate
   * @param {(summary: import("../../shared/api.js").Summary, text: string) => void} actions.onEditSummary
   */
  setActions(actions) {
    this.#memoryStart.setOnEdit(actions?.onEditSummary ?? null);
    const prompt = this.#items.findLast(({ role }) => role === "user");
    for (const item of this.#items) {
      const isLastReply = item === this.last && item.role === "assistant" && item.seq !== null;
      item.setActions({
        onEdit: actions && item === prompt ? (text) => actions.onEdit(item, text) : undefined,
        onRegenerate: actions && isLastReply ? () => actions.onRegenerate(item) : undefined,
      });
    }
  }

  /** Show a notice below the messages, in place of the previous one. @param {HTMLElement} notice */
  showNotice(notice) {
    this.#notices.replaceChildren(notice);
  }

  /**
   * Show or remove the notice that the last prompt has no reply.
   *
   * @param {(() => void) | null} onRetry null: remove
   * @param {HTMLElement[]} alternatives further buttons
   */
  setUnanswered(onRetry, alternatives = []) {
    const notice = this.#notices.querySelector(".unanswered");
    if (!onRetry) notice?.remove();
    else if (!notice) {
      this.showNotice(makeNotice("This message has no reply.", makeButton("Try again", onRetry), ...alternatives));
      this.#notices.firstElementChild.classList.add("unanswered");
    }
  }

  /** Remove notices, errors, actions, and a failed reply without text, before the conversation continues. */
  clearNotices() {
    this.#notices.replaceChildren();
    for (const item of this.#items) item.clearError();
    if (this.last?.view && this.last.seq === null) this.remove(this.last);
    this.#updateWelcome();
  }

  #updateWelcome() {
    this.#welcome.hidden = this.#items.length > 0;
  }

  /** The shown items before the history's page, if the two are adjacent. @param {History} history */
  #itemsBefore({ messages, before }) {
    if (before === null || !this.#items.some(({ id }) => id === messages[0].id)) return [];
    return this.#items.filter(({ seq }) => seq !== null && seq < before);
  }

  /** A failed reply that the server did not store stays visible while it is the last item. */
  #failedItems(shown) {
    const last = this.last;
    const isFailed = last?.view && last.seq === null && shown.length > 0 && shown.at(-1).role !== "assistant";
    return isFailed && this.#items.at(-2) === shown.at(-1) ? [last] : [];
  }

  /** Show the error of the last item only. */
  #showLastError() {
    for (const item of this.#items) if (item !== this.last) item.clearError();
    if (this.last?.message?.error) this.last.showError(this.last.message.error);
  }

  /** The first message that the model sees, if it does not see those shown above. @returns {MessageItem | undefined} */
  #firstRemembered() {
    const { from = null, left_out: leftOut = 0 } = this.#context ?? {};
    if (from === null || !leftOut) return undefined;
    const index = this.#items.findIndex(({ seq }) => seq !== null && seq >= from);
    return index > 0 || this.#items[index]?.seq === from ? this.#items[index] : undefined; // else it was not loaded yet
  }

  #add(item) {
    this.#arrange([...this.#items, item]);
    this.#scroll.scrollToEnd();
    return item;
  }

  /** @param {MessageItem[]} items */
  #arrange(items) {
    this.#items = [...new Set(items)];
    const remembered = this.#firstRemembered();
    const elements = new Set(
      this.#items.flatMap((item) => (item === remembered ? [this.#memoryStart.element, item.element] : [item.element])),
    );
    for (const child of [...this.#messages.children]) if (!elements.has(child)) child.remove();
    let next = this.#messages.firstElementChild;
    for (const element of elements) {
      if (element === next) next = next.nextElementSibling;
      else this.#messages.insertBefore(element, next);
    }
    this.#updateWelcome();
  }
}

/** @param {ReplyView} view */
function makeReplyItem(view) {
  const item = new MessageItem("assistant", view.element, () => view.source, view.status);
  item.view = view;
  return item;
}

/** @param {Message} message */
function makeItem(message) {
  const status = new ReplyStatus();
  const { element, rendered } = makeContent(message);
  const item = new MessageItem(message.role, element, () => message.content, status);
  item.rendered = rendered;
  const { text } = outcomeOf(message);
  if (text) status.showEnd({ text });
  return item;
}

/** @param {Message} message @returns {{element: HTMLElement, rendered: Promise<void>}} */
function makeContent({ role, content, thinking, images }) {
  if (role === "system") return { element: makeSystemMessage(content), rendered: Promise.resolve() };
  const view = new MessageView(role, content, thinking);
  if (images?.length) view.element.prepend(makeImages(images));
  return { element: view.element, rendered: view.content.whenRendered() };
}
