// Entry point of the chat page: creates its components and connects them.

import { ActiveConversation } from "./active_conversation.js";
import { Composer } from "./composer/composer.js";
import { deliverAll } from "./composer/delivery.js";
import { ContextGauge } from "./context/context_gauge.js";
import { DeletionQueue } from "./deletion_queue.js";
import { AutoScroll } from "./messages/auto_scroll.js";
import { Transcript } from "./messages/transcript.js";
import { ModelPicker, supportsImages } from "./settings/model_picker.js";
import { SettingsDialog } from "./settings/settings_dialog.js";
import { ConversationStore } from "./sidebar/conversation_store.js";
import { Drawer } from "./sidebar/drawer.js";
import { RunningReplies } from "./sidebar/running_replies.js";
import { Sidebar } from "./sidebar/sidebar.js";
import { makeAlert, makeButton, makeNotice } from "../shared/dom.js";
import { loadSession } from "../shared/session.js";
import { localStore, sessionStore } from "../shared/storage.js";

const MAX_ANNOUNCEMENT = 1000; // characters

const IS_APPLE = /Mac|iPhone|iPad/.test(navigator.platform);
const NEW_CHAT_KEYS = IS_APPLE ? "⌃⌥N" : "Ctrl+Alt+N"; // a combination that browsers do not use

const KEPT = "The conversation list, drafts and settings are kept until this tab is closed. Messages are stored on the server.";
const STORAGE_FULL = `This browser's storage for this page is full. ${KEPT} Delete conversations that you no longer need.`;
const STORAGE_BLOCKED = `This browser blocks storage for this page. ${KEPT} To return to this conversation, bookmark its address.`;

const find = (id) => document.getElementById(id);

warnOfStorageErrors(find("storage-warning"));
const store = new ConversationStore();
const deletions = new DeletionQueue(store);
const scroll = new AutoScroll(find("scroller"), find("transcript"), find("scroll-to-end"));
const transcript = new Transcript(find("transcript"), scroll);
const picker = new ModelPicker(find("model"), { onState: showModelState, onChange: handleModelChange });
const composer = new Composer(find("composer"), {
  onSend: (text, images) => chat.send(text, images),
  onStop: () => chat.stop(),
  onDraft: (text) => chat.saveDraft(text),
  onBusy: (busy) => running.show(chat.appID, busy),
});
const gauge = new ContextGauge(find("context-gauge"));
const chat = new ActiveConversation({ store, transcript, composer, picker, gauge, announce, onShow: handleConversationChange });
const settings = new SettingsDialog(find("settings"), (values) => {
  chat.settings.values = values;
});
const controls = { opener: find("open-sidebar"), closer: find("close-sidebar"), backdrop: find("backdrop") };
const drawer = new Drawer(find("sidebar"), find("page"), controls);
const sidebar = new Sidebar(find("sidebar"), store, { open: openConversation, remove: deleteConversation });
const running = new RunningReplies((appIDs) => {
  sidebar.running = appIDs;
});

for (const button of document.querySelectorAll(".new-chat")) button.addEventListener("click", startNew);
for (const keys of document.querySelectorAll(".new-chat-keys")) keys.textContent = NEW_CHAT_KEYS;
for (const suggestion of document.querySelectorAll(".suggestions button")) {
  suggestion.addEventListener("click", () => chat.send(suggestion.textContent));
}
find("load-earlier").addEventListener("click", () => chat.loadEarlier());
find("open-settings").addEventListener("click", () => settings.open(chat.settings.values, picker.details));
find("skip").addEventListener("click", (event) => {
  event.preventDefault(); // keep the conversation's URL
  find("prompt").focus();
});
addEventListener("popstate", () => chat.openFromUrl());
addEventListener("keydown", (event) => {
  if (!isNewChatShortcut(event) || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  startNew();
});
showSession();
chat.openFromUrl();
deliverAll();
store.addEventListener("change", updateHeader);
picker.load();
composer.focus();

function startNew() {
  drawer.close();
  chat.startNew();
}

/** @param {string} appID */
function openConversation(appID) {
  drawer.close();
  chat.open(appID);
}

/** @param {string} appID */
function deleteConversation(appID) {
  deletions.delete(appID);
  if (appID === chat.appID) chat.startNew();
}

function handleConversationChange() {
  settings.close();
  running.show(chat.appID, false);
  sidebar.current = chat.appID;
  updateHeader();
}

/** @param {string} model @param {boolean} byUser */
function handleModelChange(model, byUser) {
  if (byUser) store.update(chat.appID, { model });
  composer.setModel(model, supportsImages(picker.details));
}

/** Show the conversation's title, and mark the settings button if settings are changed. */
function updateHeader() {
  const title = store.find(chat.appID)?.title;
  document.title = title ? `${title} · chatterd` : "chatterd";
  find("title").textContent = title ?? "New chat";
  const isCustomized = Object.keys(chat.settings.values).length > 0;
  find("open-settings").classList.toggle("customized", isCustomized);
  find("open-settings").setAttribute("aria-label", isCustomized ? "Settings (customized)" : "Settings");
}

/** Show the link to sign out, if signed in. */
function showSession() {
  const session = loadSession();
  find("sign-out-link").hidden = !session;
  if (session) find("sign-out-link").title = `Signed in as ${session.name}`;
}

/** @param {import("./settings/model_picker.js").PickerState} state */
function showModelState({ error, choices, notice }) {
  const elements = [];
  if (notice) {
    const isError = choices.length > 0 || picker.details?.stand_in; // stays until it is over
    const element = makeNotice(notice, ...(isError ? [] : [makeButton("Dismiss", () => picker.dismiss())]));
    element.setAttribute("role", "status");
    elements.push(element);
  }
  if (error) {
    const buttons = choices.map((model) => makeButton(model, () => picker.choose(model)));
    elements.push(makeAlert(error, ...buttons, makeButton("Refresh", () => picker.load())));
  }
  find("model-error").replaceChildren(...elements);
}

/** Have screen readers announce a message, or the end of a long one. @param {string} text */
function announce(text) {
  find("announcer").textContent = text.length > MAX_ANNOUNCEMENT ? "The reply is complete." : text;
}

/** @param {KeyboardEvent} event */
function isNewChatShortcut(event) {
  if (!event.ctrlKey || !event.altKey || event.shiftKey || event.metaKey) return false;
  // Compare the character: Windows reports AltGr as Control and Alt, and AltGr+N types ń on a Polish keyboard.
  // On Apple keyboards Option always changes the character, so compare the key code there.
  return event.key.toLowerCase() === "n" || (IS_APPLE && event.code === "KeyN");
}

/** Warn once if the browser cannot store the page's data. @param {HTMLElement} container */
function warnOfStorageErrors(container) {
  let warned = false;
  const warn = (isFull) => {
    if (warned) return;
    warned = true;
    const notice = makeNotice(isFull ? STORAGE_FULL : STORAGE_BLOCKED, makeButton("Dismiss", () => notice.remove()));
    notice.setAttribute("role", "status");
    container.append(notice);
  };
  localStore.onWriteError(warn);
  sessionStore.onWriteError(warn);
}
