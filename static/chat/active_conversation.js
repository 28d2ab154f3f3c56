// The conversation on the page: goes from one to another with all that belongs to it, and keeps the address true.

import { Conversation } from "./conversation.js";
import { ChatSettings } from "./settings/conversation_settings.js";
import { keepDraft, recallDraft } from "./sidebar/conversation_store.js";
import { appIDInAddress, correctAddress, goTo } from "./sidebar/conversation_url.js";
import { makeNotice } from "../shared/dom.js";
import { randomUUID } from "../shared/polyfills.js";
import { everyTab } from "../shared/storage.js";

const FORMER_APP_ID = "appID"; // the only conversation, before there was a list

/**
 * @typedef {object} PageParts
 * @property {import("./sidebar/conversation_store.js").ConversationList} list
 * @property {import("./messages/transcript.js").Transcript} transcript
 * @property {import("./composer/composer.js").Composer} composer
 * @property {import("./settings/model_picker.js").ModelPicker} picker
 * @property {(text: string) => void} announce
 * @property {() => void} onShow told whenever another conversation is on the page
 */

export class CurrentChat {
  #parts;
  #conversation = null;
  #images = new Map(); // of prompts that were not sent yet; too large to be kept for longer than the page
  #listed = false;
  appID = "";
  /** @type {ChatSettings} */
  settings;

  /** @param {PageParts} parts */
  constructor(parts) {
    this.#parts = parts;
    parts.list.addEventListener("change", () => this.#takeListChange());
  }

  /** Show the conversation that the address names. */
  followAddress() {
    const { list } = this.#parts;
    const named = appIDInAddress() ?? this.#former();
    const isThere = named !== null && !list.find(named)?.deleted;
    correctAddress(isThere ? named : null);
    this.#show(isThere ? named : this.#unsaid());
  }

  /** @param {string} appID */
  open(appID) {
    goTo(appID);
    this.#show(appID);
    this.#parts.composer.focus();
  }

  /** Begin another conversation, or go on with the one in which nothing was said yet. */
  startNew() {
    goTo(null);
    this.#show(this.#unsaid());
    this.#parts.composer.focus();
  }

  /** @param {string} text @param {string[]} images in base64 */
  async send(text, images = []) {
    const { list, composer, picker } = this.#parts;
    const appID = this.appID;
    if (!picker.model) await picker.load(); // somebody may have started Ollama meanwhile
    if (appID !== this.appID) keepDraft(appID, text, list.find(appID) !== null);
    else if (!picker.model) composer.giveBack(text, images);
    else {
      list.touch(appID, text);
      list.change(appID, { model: picker.model });
      correctAddress(appID);
      this.#conversation.send(text, images);
    }
  }

  stop() {
    this.#conversation.stop();
  }

  openEarlier() {
    this.#conversation.openEarlier();
  }

  /** @param {string} text what is written and not sent */
  keepDraft(text) {
    if (this.appID) keepDraft(this.appID, text, this.#listed);
  }

  /** @param {string} appID */
  #show(appID) {
    if (appID === this.appID) return;
    const { list, transcript, composer, picker, announce, onShow } = this.#parts;
    const left = this.#conversation;
    if (left) {
      composer.keepDraft();
      this.#images.set(this.appID, composer.images);
    }
    const entry = list.open(appID);
    this.appID = appID;
    this.#listed = entry.used > 0;
    const settings = new ChatSettings(list, appID);
    this.settings = settings;
    this.#conversation = new Conversation(appID, {
      transcript,
      composer,
      announce,
      model: () => picker.model,
      options: () => settings.options,
      settings,
    });
    onShow();
    left?.leave();
    composer.show(recallDraft(appID), this.#images.get(appID) ?? []);
    picker.want(entry.model);
    if (this.#listed || appIDInAddress() === appID) {
      transcript.clear();
      this.#conversation.open();
    } else transcript.show({ messages: [], reply: null, before: null });
  }

  /** The conversation in which nothing was said yet. @returns {string} */
  #unsaid() {
    const { list } = this.#parts;
    const unsaid = list.unsaid?.appID ?? randomUUID();
    list.change(unsaid, {});
    return unsaid;
  }

  #former() {
    const former = everyTab.get(FORMER_APP_ID);
    everyTab.delete(FORMER_APP_ID);
    return former;
  }

  /** A conversation that was deleted is not on the page any longer. */
  #takeListChange() {
    const entry = this.#parts.list.find(this.appID);
    if (this.#listed && (!entry || entry.gone)) {
      this.#listed = false;
      correctAddress(null);
      this.#show(this.#unsaid());
      this.#parts.transcript.notify(makeNotice("The conversation was deleted in another tab. This is a new one."));
    } else this.#listed = entry !== null;
  }
}
