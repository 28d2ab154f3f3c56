// Wires the chat page: finds its parts and lets them know of each other.

import { Composer } from "./composer.js";
import { ConversationList } from "./conversation_list.js";
import { CurrentChat } from "./current_chat.js";
import { Deletions } from "./deletions.js";
import { deliverAll } from "./delivery.js";
import { Drawer } from "./drawer.js";
import { makeAlert, makeButton } from "./elements.js";
import { takesImages } from "./model_facts.js";
import { ModelPicker } from "./model_picker.js";
import { PinnedScroll } from "./pinned_scroll.js";
import { RunningReplies } from "./running_replies.js";
import { SettingsDialog } from "./settings_dialog.js";
import { NEW_CHAT_KEYS, isNewChatKey } from "./shortcut.js";
import { Sidebar } from "./sidebar.js";
import { signedIn } from "./signed_in.js";
import { warnOfRefusals } from "./storage_note.js";
import { Transcript } from "./transcript.js";

const READ_OUT_LIMIT = 1000;

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
