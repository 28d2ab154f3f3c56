// Wires the chat page: finds its parts and lets them know of each other.

import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { deliverAll } from "./delivery.js";
import { makeAlert, makeButton } from "./elements.js";
import { ModelPicker } from "./model_picker.js";
import { PinnedScroll } from "./pinned_scroll.js";
import { recall, remember } from "./storage.js";
import { Transcript } from "./transcript.js";
import { randomUUID } from "./uuid.js";

const APP_ID = "appID";
const READ_OUT_LIMIT = 1000;

const find = (id) => document.getElementById(id);

const scroll = new PinnedScroll(find("scroller"), find("transcript"), find("to-end"));
const transcript = new Transcript(find("transcript"), scroll);
const picker = new ModelPicker(find("model"), showTrouble);
const composer = new Composer(find("composer"), {
  onSend: send,
  onStop: () => conversation.stop(),
});
const parts = { transcript, composer, model: () => picker.model, announce };

let conversation = new Conversation(recall(APP_ID) ?? newAppID(), parts);
find("new-chat").addEventListener("click", startNew);
find("earlier").addEventListener("click", () => conversation.openEarlier());
for (const starter of document.querySelectorAll(".starters button")) {
  starter.addEventListener("click", () => send(starter.textContent));
}
conversation.open();
deliverAll();
picker.load();
composer.focus();

function newAppID() {
  const appID = randomUUID();
  remember(APP_ID, appID);
  return appID;
}

function startNew() {
  conversation.leave();
  conversation = new Conversation(newAppID(), parts);
  transcript.show({ messages: [], reply: null, before: null });
  composer.focus();
}

/** @param {string} text */
async function send(text) {
  if (!picker.model) await picker.load(); // somebody may have started Ollama meanwhile
  if (picker.model) conversation.send(text);
  else composer.giveBack(text);
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
