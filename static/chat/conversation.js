// One conversation: shows its history, sends prompts, follows and stops its reply, and agrees with other tabs.

import { deliver } from "./composer/delivery.js";
import { allUnsent, keep } from "./composer/outbox.js";
import { FollowedReply } from "./reply/reply_follower.js";
import { fetchHistory, replyId, replyLocation, stopReply } from "../shared/api.js";
import { makeAlert, makeButton } from "../shared/dom.js";
import { onChange, onReturn } from "../shared/page_events.js";
import { randomUUID } from "../shared/polyfills.js";

/** @typedef {import("./messages/message_item.js").Turn} Turn */

/**
 * @typedef {object} Settings what is recorded in the conversation beside what is said
 * @property {import("../shared/api.js").Message[]} systemMessages to record before the next prompt
 * @property {(messages: import("../shared/api.js").Message[]) => void} takeRecorded
 * @property {(history: import("../shared/api.js").History) => void} takeHistory
 *
 * @typedef {object} Parts
 * @property {import("./messages/transcript.js").Transcript} transcript
 * @property {import("./composer/composer.js").Composer} composer
 * @property {() => string} model the chosen model, empty if there is none
 * @property {() => Object<string, number>} [options] for the model
 * @property {Settings} [settings]
 * @property {(sentence: string) => void} announce to who listens to the page
 *
 * @typedef {object} Pending what is being delivered, and where it is shown
 * @property {ReturnType<typeof deliver>} delivery
 * @property {Turn[]} said
 * @property {Turn | null} answer
 */

export class Conversation {
  #appID;
  #parts;
  /** The reply that is followed. @type {FollowedReply | null} */
  #reply = null;
  /** @type {Turn | null} */
  #replyTurn = null;
  /** @type {Pending | null} */
  #pending = null;
  #before = null;
  #left = false;
  #stopWanted = false;
  #busy = false;
  #version = 0; // of what is shown: a history that was asked for before a change does not undo it
  #asked = 0;
  #answered = 0;
  #leaving = new AbortController();

  /** @param {string} appID @param {Parts} parts */
  constructor(appID, parts) {
    this.#appID = appID;
    this.#parts = parts;
    const { signal } = this.#leaving;
    onChange(appID, () => this.#refresh(), signal);
    onReturn(() => this.#refresh(), signal);
  }

  /** Show the conversation, follow the reply that is being generated, and send what could not be sent. */
  async open() {
    const { transcript } = this.#parts;
    try {
      const history = await fetchHistory(this.#appID);
      if (this.#left) return;
      this.#before = history.before;
      transcript.show(history);
      this.#take(history);
    } catch (error) {
      if (this.#left) return;
      const again = makeButton("Try again", () => this.open());
      transcript.notify(makeAlert(`The conversation could not be loaded. ${error.message}`, again));
    }
    if (!this.#reply) this.#resume();
  }

  /** Show the page of messages before those that are shown. */
  async openEarlier() {
    const history = await fetchHistory(this.#appID, this.#before).catch((error) => {
      if (!this.#left) this.#parts.transcript.notify(makeAlert(error.message));
    });
    if (!history || this.#left) return;
    this.#before = history.before;
    this.#parts.transcript.prepend(history);
  }

  /** @param {string} text @param {string[]} images in base64 */
  send(text, images = []) {
    this.#begin(this.#unsent(this.#compose(text, images)));
  }

  /** Stop the reply, where what it said so far stays; or take a prompt back that is not sent yet. */
  async stop() {
    if (!this.#reply) {
      if (!this.#pending) return;
      if (this.#pending.delivery.isTrying) this.#stopWanted = true; // as soon as there is something to stop
      else this.#takeBack();
      return;
    }
    try {
      await stopReply(this.#reply.location);
    } catch (error) {
      this.#parts.transcript.notify(makeAlert(`The reply could not be stopped. ${error.message}`));
      this.#parts.composer.busy = this.#busy; // it can be stopped again
    }
  }

  /** Look away; a reply goes on in the server, and a prompt is sent all the same. */
  leave() {
    this.#left = true;
    this.#leaving.abort();
    this.#reply?.leave();
    if (this.#pending) this.#pending.delivery.listener = null;
    this.#parts.composer.busy = false;
  }

  /** @returns {import("./composer/outbox.js").Unsent} */
  #unsent(messages, from = null) {
    const { model, options, transcript } = this.#parts;
    const request = { appID: this.#appID, model: model(), messages, options: options?.() ?? {} };
    return { ...request, key: randomUUID(), from, upTo: transcript.lastSeq, at: Date.now() };
  }

  /** Ask for a reply to the conversation as it stands. */
  #retry() {
    this.#begin(this.#unsent([]));
  }

  /** Ask for another answer in place of the one in `turn`. @param {Turn} turn */
  #askAgain(turn) {
    this.#begin(this.#unsent([], turn.seq));
  }

  /** Ask with other words in place of those in `turn`. @param {Turn} turn @param {string} text */
  async #edit(turn, text) {
    if (turn.seq === null) await this.#refresh();
    const { transcript, composer } = this.#parts;
    if (turn.seq === null) {
      composer.giveBack(text);
      transcript.notify(makeAlert("The server does not answer. Try again in a moment."));
      return;
    }
    this.#begin(this.#unsent(this.#compose(text, turn.message.images), turn.seq));
  }

  /** @param {string} text @param {string[]} [images] */
  #compose(text, images = []) {
    const system = this.#parts.settings?.systemMessages ?? [];
    return [...system, { role: "user", content: text, ...(images.length && { images }) }];
  }

  /** Deliver what an earlier page of this conversation, or another tab, left unsent. */
  #resume() {
    if (this.#left || this.#pending) return;
    const unsent = allUnsent().find(({ appID }) => appID === this.#appID);
    if (unsent) this.#begin(unsent);
  }

  /** @param {import("./composer/outbox.js").Unsent} unsent */
  #begin(unsent) {
    const { transcript, composer } = this.#parts;
    this.#version += 1;
    this.#stopWanted = false;
    if (unsent.messages.length) keep(unsent);
    transcript.settle();
    if (unsent.from !== null) transcript.removeFrom(unsent.from);
    const said = unsent.messages.map((message) => transcript.addMessage(message));
    const pending = { said, answer: transcript.addReply(performance.now()), delivery: deliver(unsent) };
    this.#pending = pending;
    this.#update();
    if (document.activeElement === document.body) composer.focus(); // what had it is gone
    pending.delivery.listener = {
      onTry: () => pending.answer.status.send(),
      onPause: (error, seconds) => this.#tellUnsent(pending, error, seconds),
      onRunning: () => (pending.answer.status.queue(), this.#refresh()),
      onTaken: (location) => this.#takeBegun(pending, location),
      onRefused: (error) => this.#takeRefusal(pending, error),
      onGone: () => (this.#endPending(pending), this.#refresh()),
    };
  }

  /** @param {Pending} pending */
  #tellUnsent(pending, error, seconds) {
    if (this.#stopWanted) {
      this.#takeBack();
      return;
    }
    const first = !pending.answer.element.classList.contains("unsent");
    if (first) this.#parts.announce(`Not sent yet. ${error.message} It is tried again.`);
    for (const { element } of [...pending.said, pending.answer]) element.classList.add("unsent");
    pending.answer.status.unsent(error.message, seconds, () => pending.delivery.tryNow());
    if (pending.said.length) pending.answer.status.offer("Take back", () => this.#takeBack());
  }

  /** @param {Pending} pending @param {string} location */
  #takeBegun(pending, location) {
    const { transcript } = this.#parts;
    const shown = transcript.find(replyId(location)); // another tab, or an attempt whose answer was lost, was quicker
    this.#version += 1;
    this.#pending = null;
    this.#parts.settings?.takeRecorded(pending.delivery.unsent.messages);
    for (const { element } of [...pending.said, pending.answer]) element.classList.remove("unsent");
    pending.answer.status.offer("", null);
    if (shown) transcript.remove(...pending.said, pending.answer);
    else this.#follow(location, pending.answer);
    this.#refresh();
  }

  /** @param {Pending} pending @param {import("../shared/api.js").ApiError} error */
  #takeRefusal(pending, error) {
    this.#endPending(pending);
    this.#giveBack(pending);
    this.#parts.transcript.notify(makeAlert(error.message));
    this.#refresh();
  }

  #takeBack() {
    const pending = this.#pending;
    pending.delivery.cancel();
    this.#endPending(pending);
    this.#giveBack(pending);
    this.#refresh();
  }

  /** @param {Pending} pending */
  #giveBack(pending) {
    const prompt = pending.delivery.unsent.messages.findLast(({ role }) => role === "user");
    if (prompt) this.#parts.composer.giveBack(prompt.content, prompt.images ?? []);
  }

  /** @param {Pending} pending */
  #endPending(pending) {
    this.#version += 1;
    this.#pending = null;
    this.#parts.transcript.remove(...pending.said, pending.answer);
    this.#update();
  }

  /** Bring what is shown up to date with the server. */
  async #refresh() {
    const version = this.#version;
    this.#asked += 1;
    const asked = this.#asked;
    const history = await fetchHistory(this.#appID).catch(() => null); // who needs the server says so
    if (this.#left || !history || asked < this.#answered) return;
    if (version !== this.#version) {
      await this.#refresh();
      return;
    }
    this.#answered = asked;
    this.#take(history);
  }

  /** @param {import("../shared/api.js").History} whole */
  #take(whole) {
    const { transcript, settings } = this.#parts;
    const history = this.#withoutReplaced(whole);
    settings?.takeHistory(history);
    const last = history.messages.at(-1);
    const running = history.reply && history.reply.id !== last?.id ? history.reply.id : null;
    if (running && !this.#reply) this.#follow(replyLocation(running), transcript.addReply());
    transcript.update(history, this.#coming());
    this.#before ??= history.before;
    this.#update();
    if (!this.#reply && !this.#pending) this.#offerMore(last);
  }

  /** What a prompt that is not sent yet will take the place of is not shown. */
  #withoutReplaced(history) {
    const from = this.#pending?.delivery.unsent.from ?? Infinity;
    return { ...history, messages: history.messages.filter(({ seq }) => seq < from) };
  }

  /** @returns {Turn[]} what the history does not have yet */
  #coming() {
    const { said = [], answer } = this.#pending ?? {};
    return [this.#replyTurn, ...said, answer].filter(Boolean);
  }

  /** @param {import("../shared/api.js").Message} [last] */
  #offerMore(last) {
    const { transcript } = this.#parts;
    const turn = transcript.last;
    this.#resume();
    if (this.#pending) return;
    transcript.tellUnanswered(turn?.role === "user" ? () => this.#retry() : null);
    if (last?.error && turn.id === last.id) turn.status.offer("Try again", () => this.#retry());
    if (last?.status === "stopped" && turn.id === last.id) turn.status.offer("Go on", () => this.#retry());
  }

  /** @param {string} location @param {Turn} turn */
  #follow(location, turn) {
    const { announce } = this.#parts;
    turn.id = replyId(location);
    turn.isComing = true;
    this.#replyTurn = turn;
    this.#reply = new FollowedReply(this.#appID, location, turn.view, {
      onLost: () => announce("The connection was lost. It is made again."),
      onEnd: (ending) => this.#takeEnd(turn, ending),
    });
    this.#update();
    if (this.#stopWanted) this.stop();
  }

  /** @param {Turn} turn @param {{erred: boolean, goesOn: boolean}} ending */
  #takeEnd(turn, { erred, goesOn }) {
    this.#version += 1;
    turn.isComing = false;
    this.#reply = null;
    this.#replyTurn = null;
    this.#stopWanted = false;
    this.#update();
    if (erred) turn.status.offer("Try again", () => this.#retry());
    else if (goesOn) turn.status.offer("Go on", () => this.#retry());
    if (!erred) this.#parts.announce(turn.source);
    this.#pending?.delivery.tryNow();
    this.#refresh();
  }

  /** While something is under way it can be stopped, and nothing else be changed. */
  #update() {
    const { transcript, composer } = this.#parts;
    const busy = Boolean(this.#pending || this.#reply);
    const actions = { onEdit: (turn, text) => this.#edit(turn, text), onAgain: (turn) => this.#askAgain(turn) };
    transcript.offer(busy ? null : actions);
    if (busy !== this.#busy) composer.busy = busy;
    this.#busy = busy;
  }
}
