// Wires the chat page: finds its parts and lets them know of each other.

import { CurrentChat } from "./active_conversation.js";
import { Composer } from "./composer/composer.js";
import { deliverAll } from "./composer/delivery.js";
import { Deletions } from "./deletion_queue.js";
import { PinnedScroll } from "./messages/auto_scroll.js";
import { Transcript } from "./messages/transcript.js";
import { ModelPicker, takesImages } from "./settings/model_picker.js";
import { SettingsDialog } from "./settings/settings_dialog.js";
import { ConversationList } from "./sidebar/conversation_store.js";
import { Drawer } from "./sidebar/drawer.js";
import { RunningReplies } from "./sidebar/running_replies.js";
import { Sidebar } from "./sidebar/sidebar.js";
import { makeAlert, makeButton, makeNotice } from "../shared/dom.js";
import { signedIn } from "../shared/session.js";
import { everyTab, thisTab } from "../shared/storage.js";

const READ_OUT_LIMIT = 1000;
const IS_APPLE = /Mac|iPhone|iPad/.test(navigator.platform);
const NEW_CHAT_KEYS = IS_APPLE ? "⌃⌥N" : "Ctrl+Alt+N";
const WHAT = "The list of conversations, drafts and settings last until this tab is closed; the server keeps what was said.";
const FULL = `This browser has no room left for this page. ${WHAT} Delete conversations that you no longer need.`;
const FORBIDDEN = `This browser keeps nothing for this page. ${WHAT} To find this conversation again, keep its address.`;

const find = (id) => document.getElementById(id);

warnOfRefusals(find("storage-note"));
const list = new ConversationList();
const deletions = new Deletions(list);
const scroll = new PinnedScroll(find("scroller"), find("transcript"), find("to-end"));
const transcript = new Transcript(find("transcript"), scroll);
const picker = new ModelPicker(find("model"), { onTrouble: showTrouble, onChange: takeModel });
const composer = new Composer(find("composer"), {
  onSend: (text, images) => chat.send(text, images),
  onStop: () => chat.stop(),
  onDraft: (text) => chat.keepDraft(text),
  onBusy: (busy) => running.show(chat.appID, busy),
});
const chat = new CurrentChat({ list, transcript, composer, picker, announce, onShow: takeChat });
const settings = new SettingsDialog(find("settings"), (values) => {
  chat.settings.values = values;
});
const controls = { opener: find("open-sidebar"), closer: find("close-sidebar"), backdrop: find("backdrop") };
const drawer = new Drawer(find("sidebar"), find("page"), controls);
const sidebar = new Sidebar(find("sidebar"), list, { open: openChat, remove: removeChat });
const running = new RunningReplies((appIDs) => {
  sidebar.running = appIDs;
});

for (const button of document.querySelectorAll(".new-chat")) button.addEventListener("click", startNew);
for (const keys of document.querySelectorAll(".new-chat-keys")) keys.textContent = NEW_CHAT_KEYS;
for (const starter of document.querySelectorAll(".starters button")) {
  starter.addEventListener("click", () => chat.send(starter.textContent));
}
find("earlier").addEventListener("click", () => chat.openEarlier());
find("open-settings").addEventListener("click", () => settings.open(chat.settings.values, picker.facts));
find("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address stays the conversation's
  find("prompt").focus();
});
addEventListener("popstate", () => chat.followAddress());
addEventListener("keydown", (event) => {
  if (!isNewChatKey(event) || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  startNew();
});
showPerson();
chat.followAddress();
deliverAll();
list.addEventListener("change", showState);
picker.load();
composer.focus();

function startNew() {
  drawer.close();
  chat.startNew();
}

/** @param {string} appID */
function openChat(appID) {
  drawer.close();
  chat.open(appID);
}

/** @param {string} appID */
function removeChat(appID) {
  deletions.delete(appID);
  if (appID === chat.appID) chat.startNew();
}

/** Another conversation is on the page. */
function takeChat() {
  settings.close();
  running.show(chat.appID, false);
  sidebar.current = chat.appID;
  showState();
}

/** @param {string} model @param {boolean} chosen */
function takeModel(model, chosen) {
  if (chosen) list.change(chat.appID, { model });
  composer.setModel(model, takesImages(picker.facts));
}

/** Say which conversation this is, and whether it has settings of its own. */
function showState() {
  const title = list.find(chat.appID)?.title;
  document.title = title ? `${title} · chatterd` : "chatterd";
  find("title").textContent = title ?? "New chat";
  const isSet = Object.keys(chat.settings.values).length > 0;
  find("open-settings").classList.toggle("set", isSet);
  find("open-settings").setAttribute("aria-label", isSet ? "Settings, changed for this conversation" : "Settings");
}

/** Say who is signed in, and lead out again. */
function showPerson() {
  const person = signedIn();
  find("signed-in").hidden = !person;
  if (person) find("signed-in").title = `You are signed in as ${person.name}`;
}

/** Say below the messages why there is no model. @param {string | null} sentence */
function showTrouble(sentence) {
  const trouble = sentence && makeAlert(sentence, makeButton("Look again", () => picker.load()));
  find("trouble").replaceChildren(...(trouble ? [trouble] : []));
}

/** Read a finished reply out, once, to who listens to the page. @param {string} text */
function announce(text) {
  find("announcer").textContent = text.length > READ_OUT_LIMIT ? "The reply is complete." : text;
}

/** @param {KeyboardEvent} event */
function isNewChatKey(event) {
  if (!event.ctrlKey || !event.altKey || event.shiftKey || event.metaKey) return false;
  // By the letter: Windows reports AltGr as Control and Alt, and AltGr+N writes ń in Polish. Option writes one always.
  return event.key.toLowerCase() === "n" || (IS_APPLE && event.code === "KeyN");
}

/** @param {HTMLElement} place */
function warnOfRefusals(place) {
  let said = false;
  const say = (full) => {
    if (said) return;
    said = true;
    const notice = makeNotice(full ? FULL : FORBIDDEN, makeButton("Understood", () => notice.remove()));
    notice.setAttribute("role", "status");
    place.append(notice);
  };
  everyTab.onRefusal(say);
  thisTab.onRefusal(say);
}
