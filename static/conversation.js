// One conversation: shows its history, sends prompts, follows and stops its reply.

import { beginReply, fetchHistory, replyLocation, stopReply } from "./api.js";
import { makeAlert, makeButton } from "./elements.js";
import { FollowedReply } from "./followed_reply.js";
import { makeNotice } from "./transcript.js";
import { randomUUID } from "./uuid.js";

/**
 * @typedef {object} Parts
 * @property {import("./transcript.js").Transcript} transcript
 * @property {import("./composer.js").Composer} composer
 * @property {() => string} model the chosen model, empty if there is none
 * @property {() => Object<string, number>} options for the model
 * @property {import("./chat_settings.js").ChatSettings} settings
 * @property {(sentence: string) => void} announce to who listens to the page
 */

export class Conversation {
  #appID;
  #parts;
  #reply = null;
  #before = null;
  #left = false;
  #stopWanted = false;
  #send = { body: "", key: "" }; // the key stays the same while the same messages are tried again

  /** @param {string} appID @param {Parts} parts */
  constructor(appID, parts) {
    this.#appID = appID;
    this.#parts = parts;
  }

  /** Show the conversation, and follow the reply that is being generated. */
  async open() {
    const { transcript } = this.#parts;
    try {
      const history = await fetchHistory(this.#appID);
      if (!this.#left) this.#show(history);
    } catch (error) {
      if (this.#left) return;
      const again = makeButton("Try again", () => this.open());
      transcript.notify(makeAlert(`The conversation could not be loaded. ${error.message}`, again));
    }
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
  async send(text, images = []) {
    const { transcript, composer, settings } = this.#parts;
    const prompt = { role: "user", content: text, ...(images.length && { images }) };
    const messages = [...settings.systemMessages, prompt];
    const body = JSON.stringify(messages);
    if (this.#send.body !== body) this.#send = { body, key: randomUUID() };
    const shown = messages.map((message) => transcript.addMessage(message));
    const begun = await this.#ask(messages, this.#send.key);
    if (begun) {
      this.#send = { body: "", key: "" };
      settings.takeRecorded(messages);
    } else {
      for (const element of shown) element.remove();
      transcript.updateWelcome();
      if (!this.#left) composer.giveBack(text, images);
    }
  }

  /** Ask for a reply to the conversation as it stands. */
  async retry() {
    const key = randomUUID();
    if (!(await this.#ask([], key)) && !this.#left) this.#offerRetry("There is no reply to the last message yet.");
  }

  /** Stop the reply; what it said so far stays. */
  async stop() {
    this.#stopWanted = true;
    if (!this.#reply) return; // it is being begun: #follow stops it
    try {
      await stopReply(this.#reply.location);
    } catch (error) {
      this.#parts.transcript.notify(makeAlert(`The reply could not be stopped. ${error.message}`));
      this.#parts.composer.busy = this.#reply !== null;
    }
  }

  /** Look away; a reply goes on in the server. */
  leave() {
    this.#left = true;
    this.#reply?.leave();
    this.#parts.composer.busy = false;
  }

  /** @param {import("./api.js").History} history */
  #show(history) {
    const { transcript } = this.#parts;
    const last = history.messages.at(-1);
    this.#before = history.before;
    this.#parts.settings.takeHistory(history);
    transcript.show(history);
    if (history.reply && history.reply.id !== last?.id) {
      this.#follow(replyLocation(history.reply.id), transcript.addReply());
    } else if (last?.role === "user") {
      this.#offerRetry("There is no reply to this message.");
    }
  }

  #offerRetry(sentence) {
    this.#parts.transcript.notify(makeNotice(sentence, makeButton("Try again", () => this.retry())));
  }

  /** Begin a reply and follow it. @returns {Promise<boolean>} whether it was begun */
  async #ask(messages, key) {
    const { transcript, composer, model, options } = this.#parts;
    transcript.settle();
    const view = transcript.addReply();
    composer.busy = true;
    this.#stopWanted = false;
    try {
      const location = await beginReply(this.#appID, model(), messages, key, options());
      if (this.#left) view.end();
      else this.#follow(location, view);
      return true;
    } catch (error) {
      view.end();
      view.element.remove();
      if (!this.#left) await this.#takeRefusal(error);
      return false;
    }
  }

  /** @param {import("./api.js").ApiError} error */
  async #takeRefusal(error) {
    this.#parts.composer.busy = false;
    if (error.location) await this.open(); // a reply that was begun elsewhere, in another tab perhaps
    if (!this.#left) this.#parts.transcript.notify(makeAlert(error.message));
  }

  /** @param {string} location @param {import("./reply_view.js").ReplyView} view */
  #follow(location, view) {
    this.#parts.composer.busy = true;
    this.#reply = new FollowedReply(this.#appID, location, view, ({ erred }) => this.#takeEnd(view, erred));
    if (this.#stopWanted) this.stop();
  }

  #takeEnd(view, erred) {
    const { transcript, composer, announce } = this.#parts;
    this.#reply = null;
    this.#stopWanted = false;
    composer.busy = false;
    transcript.settle();
    if (erred) view.offerRetry(() => this.#retryAfter(view));
    else announce(view.content.text);
  }

  /** Keep the words of a reply that failed; the next one stands on them. */
  #retryAfter(view) {
    view.dismiss();
    this.retry();
  }
}
