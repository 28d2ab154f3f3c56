// Says, once, that the browser does not keep what the page would like to keep.

import { makeButton } from "./elements.js";
import { everyTab, thisTab } from "./storage.js";
import { makeNotice } from "./transcript.js";

const WHAT = "The list of conversations, drafts and settings last until this tab is closed; the server keeps what was said.";
const FULL = `This browser has no room left for this page. ${WHAT} Delete conversations that you no longer need.`;
const FORBIDDEN = `This browser keeps nothing for this page. ${WHAT} To find this conversation again, keep its address.`;

/** @param {HTMLElement} place */
export function warnOfRefusals(place) {
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
