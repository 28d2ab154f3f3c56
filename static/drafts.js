// What was written and not sent yet, for each conversation, through reloads.

import { everyTab, thisTab } from "./storage.js";

const NAME = "draft.";

/** @param {string} appID @returns {string} */
export function recallDraft(appID) {
  return everyTab.get(NAME + appID) ?? thisTab.get(NAME + appID) ?? "";
}

/**
 * @param {string} appID
 * @param {string} text
 * @param {boolean} listed whether the conversation is in the list: without, no other tab could ever find the draft
 */
export function keepDraft(appID, text, listed) {
  if (!text) forgetDraft(appID);
  else (listed ? everyTab : thisTab).set(NAME + appID, text);
}

/** @param {string} appID */
export function forgetDraft(appID) {
  everyTab.delete(NAME + appID);
  thisTab.delete(NAME + appID);
}
