// The conversation shown on the page: switches between conversations and keeps the URL in sync.

import { Conversation } from "./conversation.js";
import { ConversationSettings } from "./settings/conversation_settings.js";
import { loadDraft, saveDraft } from "./sidebar/conversation_store.js";
import { appIDFromUrl, pushUrl, replaceUrl } from "./sidebar/conversation_url.js";
import { makeNotice } from "../shared/dom.js";
import { randomUUID } from "../shared/polyfills.js";
import { localStore } from "../shared/storage.js";

const LEGACY_APP_ID_KEY = "appID"; // the only conversation of versions without a conversation list

/**
 * @typedef {object} PageParts
 * @property {import("./sidebar/conversation_store.js").ConversationStore} store
 * @property {import("./messages/transcript.js").Transcript} transcript
 * @property {import("./composer/composer.js").Composer} composer
 * @property {import("./settings/model_picker.js").ModelPicker} picker
 * @property {import("./context/context_gauge.js").ContextGauge} gauge
 * @property {(text: string) => void} announce
 * @property {() => void} onShow called when another conversation is shown
 */

export class ActiveConversation {
  #parts;
  #conversation = null;
  #images = new Map(); // unsent images by appID; too large for the browser's storage
  #isListed = false;
  appID = "";
  /** @type {ConversationSettings} */
  settings;

  /** @param {PageParts} parts */
  constructor(parts) {
    this.#parts = parts;
    parts.store.addEventListener("change", () => this.#handleStoreChange());
  }

  /** Show the conversation in the URL, or a new one. */
  openFromUrl() {
    const { store } = this.#parts;
    const requested = appIDFromUrl() ?? this.#takeLegacyAppID();
    const exists = requested !== null && !store.find(requested)?.deletedAt;
    replaceUrl(exists ? requested : null);
    this.#show(exists ? requested : this.#emptyConversation());
  }

  /** @param {string} appID */
  open(appID) {
    pushUrl(appID);
    this.#show(appID);
    this.#parts.composer.focus();
  }

  /**
   * Show a new conversation, or the existing one without messages.
   *
   * @param {string} [text] of a prompt to put into the composer
   * @param {string[]} [images] of it, in base64
   */
  startNew(text = "", images = []) {
    const { composer } = this.#parts;
    pushUrl(null);
    this.#show(this.#emptyConversation());
    if (text || images.length) composer.restore(text, images);
    else composer.focus();
  }

  /** @param {string} text @param {string[]} images base64 */
  async send(text, images = []) {
    const { store, composer, picker } = this.#parts;
    const appID = this.appID;
    if (!picker.model) await picker.load(); // Ollama may have been started since
    if (appID !== this.appID) saveDraft(appID, text, store.find(appID) !== null);
    else if (!picker.model) {
      composer.restore(text, images);
      picker.ask();
    } else {
      store.touch(appID, text);
      store.update(appID, { model: picker.model });
      picker.select(picker.model); // from now on this conversation's model
      replaceUrl(appID);
      this.#conversation.send(text, images);
    }
  }

  stop() {
    this.#conversation.stop();
  }

  loadEarlier() {
    this.#conversation.loadEarlier();
  }

  /** @param {string} text */
  saveDraft(text) {
    if (this.appID) saveDraft(this.appID, text, this.#isListed);
  }

  /** @param {string} appID */
  #show(appID) {
    if (appID === this.appID) return;
    const { store, transcript, composer, picker, gauge, announce, onShow } = this.#parts;
    const previous = this.#conversation;
    if (previous) {
      composer.saveDraft();
      this.#images.set(this.appID, composer.images);
    }
    const entry = store.getOrCreate(appID);
    this.appID = appID;
    this.#isListed = entry.lastUsedAt > 0;
    const settings = new ConversationSettings(store, appID);
    this.settings = settings;
    this.#conversation = new Conversation(appID, {
      transcript,
      composer,
      gauge,
      announce,
      model: () => picker.model,
      askForModel: () => picker.ask(),
      onReplyFailed: () => picker.load(), // its model may be gone
      options: () => settings.options,
      startNew: (text, images) => this.startNew(text, images),
      settings,
    });
    onShow();
    previous?.close();
    gauge.show(null);
    composer.show(loadDraft(appID), this.#images.get(appID) ?? []);
    picker.select(entry.model);
    if (this.#isListed || appIDFromUrl() === appID) {
      transcript.clear();
      this.#conversation.open();
    } else transcript.show({ messages: [], reply: null, before: null });
  }

  /** The conversation without messages, created if needed. @returns {string} */
  #emptyConversation() {
    const { store } = this.#parts;
    const appID = store.emptyEntry?.appID ?? randomUUID();
    store.update(appID, {});
    return appID;
  }

  #takeLegacyAppID() {
    const appID = localStore.get(LEGACY_APP_ID_KEY);
    localStore.delete(LEGACY_APP_ID_KEY);
    return appID;
  }

  /** Show a new conversation if this one was deleted in another tab. */
  #handleStoreChange() {
    const entry = this.#parts.store.find(this.appID);
    if (this.#isListed && (!entry || entry.isPurging)) {
      this.#isListed = false;
      replaceUrl(null);
      this.#show(this.#emptyConversation());
      this.#parts.transcript.showNotice(makeNotice("This conversation was deleted in another tab. This is a new chat."));
    } else this.#isListed = entry !== null;
  }
}
