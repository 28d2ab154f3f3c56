// One conversation in the sidebar: a link to it, its title to be changed in place, deleting, and taking that back.

import { addressOf } from "./conversation_url.js";
import { make, makeIconButton } from "../../shared/dom.js";

/**
 * @typedef {object} ItemActions
 * @property {(appID: string) => void} open
 * @property {(appID: string, title: string, byKey: boolean) => void} rename
 * @property {(appID: string) => void} remove
 * @property {(appID: string) => void} undo
 */

/**
 * @param {import("./conversation_store.js").Entry} entry
 * @param {{isCurrent: boolean, isRunning: boolean}} state
 * @param {ItemActions} actions
 * @returns {HTMLLIElement}
 */
export function makeItem(entry, state, actions) {
  const item = entry.deleted ? makeDeleted(entry, actions) : makeKept(entry, state, actions);
  item.dataset.appid = entry.appID;
  return item;
}

function makeDeleted({ appID, title }, actions) {
  const undo = make("button", "undo", "Undo");
  undo.type = "button";
  undo.setAttribute("aria-label", `Undo: keep “${title}”`);
  undo.addEventListener("click", () => actions.undo(appID));
  const words = make("span", "title", title);
  words.dir = "auto";
  return make("li", "conversation deleted", make("span", "visually-hidden", "Deleted:"), words, undo);
}

function makeKept({ appID, title }, { isCurrent, isRunning }, actions) {
  const words = make("span", "title", title);
  words.dir = "auto";
  const link = make("a", "", words);
  link.href = addressOf(appID);
  link.title = title;
  if (isCurrent) link.setAttribute("aria-current", "page");
  if (isRunning) link.append(" ", make("span", "running", make("span", "visually-hidden", "is being answered")));
  const rename = makeIconButton(`Rename “${title}”`, "M12.5 4.5l3 3L7 16H4v-3z");
  const remove = makeIconButton(`Delete “${title}”`, "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6");
  const item = make("li", "conversation", link, make("span", "actions", rename, remove));
  const startRenaming = () => editTitle(item, title, (changed, byKey) => actions.rename(appID, changed, byKey));
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // into another tab or window
    event.preventDefault();
    actions.open(appID);
  });
  link.addEventListener("keydown", ({ key }) => {
    if (key === "F2") startRenaming();
    if (key === "Delete") actions.remove(appID);
  });
  rename.addEventListener("click", startRenaming);
  remove.addEventListener("click", () => actions.remove(appID));
  return item;
}

/**
 * @param {HTMLLIElement} item
 * @param {string} title
 * @param {(title: string, byKey: boolean) => void} onEnd told the title as it stands then, and whether a key ended it
 */
function editTitle(item, title, onEnd) {
  const box = make("input", "");
  box.value = title;
  box.dir = "auto";
  box.maxLength = 200;
  box.setAttribute("aria-label", "Title");
  let ended = false;
  const end = (changed, byKey) => {
    if (ended) return;
    ended = true; // taking the box away makes it lose the focus, which would end it again
    onEnd(changed.trim() || title, byKey);
  };
  box.addEventListener("blur", () => end(box.value, false));
  box.addEventListener("keydown", (event) => {
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault(); // Escape closes no drawer and stops no reply
    end(event.key === "Enter" ? box.value : title, true);
  });
  item.replaceChildren(box);
  item.classList.add("editing");
  box.select();
}
