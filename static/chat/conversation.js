// Controller of one conversation: loads its history, sends prompts, follows and stops replies, syncs with other tabs.

import { deliver } from "./composer/delivery.js";
import { listOutbox, saveToOutbox } from "./composer/outbox.js";
import { contextOf, endsWithWindow } from "./context/context_text.js";
import { INCOMPLETE, ReplyFollower } from "./reply/reply_follower.js";
import { editSummary, fetchHistory, replyId, replyLocation, stopReply } from "../shared/api.js";
import { makeAlert, makeButton } from "../shared/dom.js";
import { onConversationChange, onResume } from "../shared/page_events.js";
import { randomUUID } from "../shared/polyfills.js";

const WITHOUT_IMAGES = "Send without images";
const WINDOW_FULL = "The reply ends here because the model's window is full.";
const CONTEXT_FULL = "context_full"; // code of an error: the conversation has outgrown the model's window
const CONTEXT_EXCEEDED = "context_exceeded"; // code of an error: the prompt alone exceeds the model's window

/** @typedef {import("./messages/message_item.js").MessageItem} MessageItem */
/** @typedef {import("../shared/api.js").Message} Message */

/**
 * @typedef {object} Parts
 * @property {import("./messages/transcript.js").Transcript} transcript
 * @property {import("./composer/composer.js").Composer} composer
 * @property {() => string} model the selected model; empty if there is none
 * @property {() => void} askForModel
 * @property {() => void} onReplyFailed
 * @property {(text: string, images: string[]) => void} startNew start a new conversation with a prompt to send; images in base64
 * @property {import("./context/context_gauge.js").ContextGauge} gauge
 * @property {() => Object<string, number>} options of the model
 * @property {import("./settings/conversation_settings.js").ConversationSettings} settings
 * @property {(message: string) => void} announce for screen readers
 *
 * @typedef {object} Pending a prompt being delivered, and the items that show it
 * @property {import("./composer/outbox.js").Unsent} unsent as it was at first
 * @property {ReturnType<typeof deliver>} delivery
 * @property {MessageItem[]} promptItems
 * @property {MessageItem | null} replyItem
 * @property {MessageItem | null} continued the item that `replyItem` has replaced
 */

export class Conversation {
  #appID;
  #parts;
  /** @type {ReplyFollower | null} */
  #reply = null;
  /** @type {MessageItem | null} */
  #replyItem = null;
  /** @type {Pending | null} */
  #pending = null;
  #before = null;
  #isClosed = false;
  #stopRequested = false;
  #busy = false;
  #version = 0; // of the shown state: a history requested before a change must not overwrite it
  #requested = 0; // number of the last history request
  #received = 0; // number of the last history response that was applied
  #closing = new AbortController();

  /** @param {string} appID @param {Parts} parts */
  constructor(appID, parts) {
    this.#appID = appID;
    this.#parts = parts;
    const { signal } = this.#closing;
    onConversationChange(appID, () => this.#refresh(), signal);
    onResume(() => this.#refresh(), signal);
  }

  /** Load and show the conversation, follow its running reply, and send its unsent prompt. */
  async open() {
    const { transcript } = this.#parts;
    try {
      const history = await fetchHistory(this.#appID);
      if (this.#isClosed) return;
      this.#before = history.before;
      transcript.show(history);
      this.#apply(history);
    } catch (error) {
      if (this.#isClosed) return;
      const retry = makeButton("Try again", () => this.open());
      transcript.showNotice(makeAlert(`The conversation could not be loaded. ${error.message}`, retry));
    }
    if (!this.#reply) this.#resumeDelivery();
  }

  /** Load the page of messages before the oldest one shown. */
  async loadEarlier() {
    const history = await fetchHistory(this.#appID, this.#before).catch((error) => {
      if (!this.#isClosed) this.#parts.transcript.showNotice(makeAlert(error.message));
    });
    if (!history || this.#isClosed) return;
    this.#before = history.before;
    this.#parts.transcript.prepend(history);
  }

  /** @param {string} text @param {string[]} images base64 */
  send(text, images = []) {
    this.#deliver(this.#makeUnsent(this.#composeMessages(text, images)));
  }

  /** Stop the running reply and keep its text so far, or cancel an unsent prompt. */
  async stop() {
    if (!this.#reply) {
      if (!this.#pending) return;
      if (this.#pending.delivery.isSending) this.#stopRequested = true; // stop the reply as soon as it exists
      else this.#cancelPending();
      return;
    }
    try {
      await stopReply(this.#reply.location);
    } catch (error) {
      this.#parts.transcript.showNotice(makeAlert(`The reply could not be stopped. ${error.message}`));
      this.#parts.composer.busy = this.#busy; // enable the stop button again
    }
  }

  /** Detach from the page. The reply continues on the server, and an unsent prompt is still delivered. */
  close() {
    this.#isClosed = true;
    this.#closing.abort();
    this.#reply?.close();
    if (this.#pending) this.#pending.delivery.listener = null;
    this.#parts.composer.busy = false;
  }

  /** @returns {import("./composer/outbox.js").Unsent} */
  #makeUnsent(messages, replaceFrom = null, contextFull = this.#parts.settings.contextFull) {
    const { model, options, transcript } = this.#parts;
    const request = { appID: this.#appID, model: model(), messages, options: options(), contextFull };
    return { ...request, key: randomUUID(), replaceFrom, lastSeq: transcript.lastSeq, createdAt: Date.now() };
  }

  /**
   * Request a reply to the conversation as it is; it continues the last message if that is a reply.
   *
   * @param {"cut" | "stop"} [contextFull] by default as in the settings
   */
  async #requestReply(contextFull) {
    const { last } = this.#parts.transcript;
    if (last?.role === "assistant" && last.seq === null) await this.#refresh(); // is its text stored?
    if (this.#isClosed || this.#pending || this.#reply || !this.#hasModel()) return;
    this.#deliver(this.#makeUnsent([], null, contextFull));
  }

  /** Replace a reply by a new one. @param {MessageItem} item */
  #regenerate(item) {
    if (!this.#hasModel()) return;
    this.#deliver(this.#makeUnsent([], item.seq));
  }

  /**
   * Replace a prompt and the reply to it.
   *
   * @param {MessageItem} item
   * @param {string} text
   * @param {string[]} [images] by default those of the prompt
   */
  async #edit(item, text, images) {
    if (item.seq === null) await this.#refresh();
    const { transcript, composer } = this.#parts;
    if (item.seq === null) {
      composer.restore(text);
      transcript.showNotice(makeAlert("Cannot reach the server. Try again in a moment."));
      return;
    }
    const sent = images ?? item.message.images;
    if (!this.#hasModel()) composer.restore(text);
    else this.#deliver(this.#makeUnsent(this.#composeMessages(text, sent), item.seq));
  }

  /** @param {import("../shared/api.js").Summary} summary @param {string} text */
  async #editSummary({ until }, text) {
    try {
      await editSummary(this.#appID, until, text);
    } catch (error) {
      this.#parts.transcript.showNotice(makeAlert(`The summary is not saved. ${error.message}`));
    }
    await this.#refresh();
  }

  /** Ask for a model if none is selected. @returns {boolean} whether one is */
  #hasModel() {
    const { model, askForModel } = this.#parts;
    if (!model()) askForModel();
    return model() !== "";
  }

  /** @param {string} text @param {string[]} [images] */
  #composeMessages(text, images = []) {
    return [...this.#parts.settings.systemMessages, { role: "user", content: text, ...(images.length && { images }) }];
  }

  /** Deliver the prompt that an earlier page or another tab left in the outbox. */
  #resumeDelivery() {
    if (this.#isClosed || this.#pending) return;
    const unsent = listOutbox().find(({ appID }) => appID === this.#appID);
    if (unsent) this.#deliver(unsent);
  }

  /** @param {import("./composer/outbox.js").Unsent} unsent */
  #deliver(unsent) {
    const { transcript, composer } = this.#parts;
    this.#version += 1;
    this.#stopRequested = false;
    if (unsent.messages.length) saveToOutbox(unsent);
    transcript.clearNotices();
    if (unsent.replaceFrom !== null) transcript.removeFrom(unsent.replaceFrom);
    const promptItems = unsent.messages.map((message) => transcript.addMessage(message));
    const continued = promptItems.length ? null : transcript.continuable;
    const now = performance.now();
    const replyItem = continued ? transcript.continueReply(continued.message, now) : transcript.addReply(now);
    const pending = { unsent, promptItems, replyItem, continued, delivery: deliver(unsent) };
    this.#pending = pending;
    this.#update();
    if (document.activeElement === document.body) composer.focus(); // the focused element was removed
    pending.delivery.listener = {
      onAttempt: () => pending.replyItem.status.showSending(),
      onRetryScheduled: (error, seconds) => this.#showUnsent(pending, error, seconds),
      onConflict: () => this.#handleConflict(pending),
      onAccepted: (location) => this.#handleAccepted(pending, location),
      onRejected: (error) => this.#handleRejected(pending, error),
      onSettledElsewhere: () => (this.#removePending(pending), this.#refresh()),
    };
  }

  /** @param {Pending} pending */
  #showUnsent(pending, error, seconds) {
    if (this.#stopRequested) {
      this.#cancelPending();
      return;
    }
    const isFirst = !pending.replyItem.element.classList.contains("unsent");
    if (isFirst) this.#parts.announce(`Not sent yet. ${error.message} Retrying automatically.`);
    for (const { element } of [...pending.promptItems, pending.replyItem]) element.classList.add("unsent");
    pending.replyItem.status.showUnsent(error.message, seconds, () => pending.delivery.retryNow());
    if (pending.promptItems.length) pending.replyItem.status.setAction("Cancel sending", () => this.#cancelPending());
  }

  /**
   * A prompt waits for the running reply to end. A request without a prompt is dropped: the running reply is what it asks
   * for, and to continue that one in turn was not asked.
   *
   * @param {Pending} pending
   */
  #handleConflict(pending) {
    const { messages, replaceFrom } = pending.unsent;
    if (!messages.length && replaceFrom === null) {
      this.#cancelPending();
      return;
    }
    pending.replyItem.status.showQueued();
    this.#refresh();
  }

  /** @param {Pending} pending @param {string} location */
  #handleAccepted(pending, location) {
    const { transcript, settings } = this.#parts;
    const shown = transcript.find(replyId(location)); // already shown: by another tab's change, or after a lost response
    this.#version += 1;
    this.#pending = null;
    settings.handleRecorded(pending.delivery.unsent.messages);
    for (const { element } of [...pending.promptItems, pending.replyItem]) element.classList.remove("unsent");
    pending.replyItem.status.setAction("", null);
    if (!shown) this.#follow(location, pending.replyItem);
    else if (shown !== pending.replyItem) this.#removeItems(pending);
    this.#refresh();
  }

  /** @param {Pending} pending @param {import("../shared/api.js").ApiError} error */
  #handleRejected(pending, error) {
    this.#removePending(pending);
    this.#restorePrompt(pending);
    this.#parts.transcript.showNotice(makeAlert(error.message));
    this.#refresh();
  }

  #cancelPending() {
    const pending = this.#pending;
    pending.delivery.cancel();
    this.#removePending(pending);
    this.#restorePrompt(pending);
    this.#refresh();
  }

  /** Put the prompt back into the composer. @param {Pending} pending */
  #restorePrompt(pending) {
    const prompt = pending.delivery.unsent.messages.findLast(({ role }) => role === "user");
    if (prompt) this.#parts.composer.restore(prompt.content, prompt.images ?? []);
  }

  /** @param {Pending} pending */
  #removePending(pending) {
    this.#version += 1;
    this.#pending = null;
    this.#removeItems(pending);
    this.#update();
  }

  /** @param {Pending} pending */
  #removeItems({ promptItems, replyItem, continued }) {
    const { transcript } = this.#parts;
    if (replyItem.replyId) return; // it shows a reply begun elsewhere
    if (continued) transcript.replace(replyItem, continued);
    else transcript.remove(...promptItems, replyItem);
  }

  /** Fetch the history and show its changes. */
  async #refresh() {
    const version = this.#version;
    this.#requested += 1;
    const number = this.#requested;
    const history = await fetchHistory(this.#appID).catch(() => null); // not needed now; other requests report errors
    if (this.#isClosed || !history || number < this.#received) return;
    if (version !== this.#version) {
      await this.#refresh();
      return;
    }
    this.#received = number;
    this.#apply(history);
  }

  /** @param {import("../shared/api.js").History} complete */
  #apply(complete) {
    const { transcript, settings, gauge } = this.#parts;
    const history = this.#withoutReplaced(complete);
    settings.handleHistory(history);
    gauge.show(contextOf(history));
    const last = history.messages.at(-1);
    const running = history.reply && history.reply.id !== last?.id ? history.reply.id : null;
    if (running && !this.#reply) this.#follow(replyLocation(running), this.#itemForRunning(last));
    transcript.update(history, this.#unstoredItems());
    this.#before ??= history.before;
    this.#update();
    if (!this.#reply && !this.#pending) this.#offerActions(last, contextOf(history));
  }

  /** An item for a reply begun elsewhere. After a reply it continues that one. @param {Message} [last] */
  #itemForRunning(last) {
    const { transcript } = this.#parts;
    const pending = this.#pending?.replyItem;
    if (last?.role !== "assistant") return transcript.addReply();
    return pending?.id === last.id && !pending.replyId ? pending : transcript.continueReply(last);
  }

  /** Hide the messages that a pending prompt is about to replace. */
  #withoutReplaced(history) {
    const from = this.#pending?.delivery.unsent.replaceFrom ?? Infinity;
    return { ...history, messages: history.messages.filter(({ seq }) => seq < from) };
  }

  /** @returns {MessageItem[]} items that the history does not contain yet */
  #unstoredItems() {
    const { promptItems = [], replyItem } = this.#pending ?? {};
    return [this.#replyItem, ...promptItems, replyItem].filter(Boolean);
  }

  /** @param {Message} [last] @param {import("../shared/api.js").Context | null} context */
  #offerActions(last, context) {
    const { transcript, options } = this.#parts;
    const item = transcript.last;
    this.#resumeDelivery();
    if (this.#pending) return;
    const withoutImages = this.#withoutImages(last);
    const alternatives = withoutImages ? [makeButton(WITHOUT_IMAGES, withoutImages)] : [];
    const isUnanswered = item?.role === "user" && !item.message?.left_out;
    transcript.setUnanswered(isUnanswered ? () => this.#requestReply() : null, alternatives);
    if (item?.errorCode === CONTEXT_FULL) return;
    if (item?.view && item.seq === null) item.status.setAlternative(WITHOUT_IMAGES, withoutImages);
    if (last?.error && item.id === last.id) item.status.setAction("Try again", () => this.#requestReply());
    const isCutShort = last?.role === "assistant" && context?.done_reason === "length";
    if (isCutShort && item.id === last.id) {
      item.status.explainEnd(endsWithWindow(context, options().num_predict > 0) ? WINDOW_FULL : INCOMPLETE.length);
    }
    const isIncomplete = isCutShort || last?.status === "stopped";
    if (isIncomplete && item.id === last.id) item.status.setAction("Continue", () => this.#requestReply());
  }

  /** How to send a prompt without its images, which may be why it has no reply. @param {Message} [prompt] the last message */
  #withoutImages(prompt) {
    if (prompt?.role !== "user" || !prompt.images?.length) return null;
    const item = this.#parts.transcript.find(prompt.id);
    return item ? () => this.#edit(item, prompt.content, []) : null;
  }

  /** @param {string} location @param {MessageItem} item */
  #follow(location, item) {
    const { announce } = this.#parts;
    item.startStreaming(replyId(location));
    this.#replyItem = item;
    this.#reply = new ReplyFollower(this.#appID, location, item.id, item.view, {
      onConnectionLost: () => announce("Connection lost. Reconnecting…"),
      onEnd: (outcome) => this.#handleEnd(item, outcome),
    });
    this.#update();
    if (this.#stopRequested) this.stop();
  }

  /** @param {MessageItem} item @param {{failed: boolean, code?: string, canContinue: boolean}} outcome */
  #handleEnd(item, { failed, code = "", canContinue }) {
    this.#version += 1;
    item.isStreaming = false;
    this.#reply = null;
    this.#replyItem = null;
    this.#stopRequested = false;
    this.#update();
    if (failed) {
      this.#offerAfterFailure(item, code);
      this.#parts.onReplyFailed();
    } else if (canContinue) item.status.setAction("Continue", () => this.#requestReply());
    if (!failed) this.#parts.announce(item.view.newSource);
    this.#pending?.delivery.retryNow();
    this.#refresh();
  }

  /** @param {MessageItem} item @param {string} code of the error; empty: none */
  #offerAfterFailure(item, code) {
    item.errorCode = code;
    if (code === CONTEXT_FULL) {
      item.status.setAction("Leave out the oldest messages and go on", () => this.#requestReply("cut"));
      item.status.setAlternative("Start a new chat", () => this.#startNew());
    } else if (code !== CONTEXT_EXCEEDED) item.status.setAction("Try again", () => this.#requestReply());
  }

  /** Start a new conversation with the prompt that has no reply, if there is one. */
  #startNew() {
    const { transcript, startNew } = this.#parts;
    const { content = "", images = [] } = transcript.unansweredPrompt?.message ?? {};
    startNew(content, images);
  }

  /** Allow to stop while a reply is pending or running, and to edit or regenerate otherwise. */
  #update() {
    const { transcript, composer } = this.#parts;
    const busy = Boolean(this.#pending || this.#reply);
    const actions = {
      onEdit: (item, text) => this.#edit(item, text),
      onRegenerate: (item) => this.#regenerate(item),
      onEditSummary: (summary, text) => this.#editSummary(summary, text),
    };
    transcript.setActions(busy ? null : actions);
    if (busy !== this.#busy) composer.busy = busy;
    this.#busy = busy;
  }
}
