// One conversation in the sidebar: its link, and the actions rename, delete and undo.

import { urlOf } from "./conversation_url.js";
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
  const item = entry.deletedAt ? makeDeleted(entry, actions) : makeLinked(entry, state, actions);
  item.dataset.appid = entry.appID;
  return item;
}

function makeDeleted({ appID, title }, actions) {
  const undo = make("button", "undo", "Undo");
  undo.type = "button";
  undo.setAttribute("aria-label", `Undo deleting “${title}”`);
  undo.addEventListener("click", () => actions.undo(appID));
  const label = make("span", "title", title);
  label.dir = "auto";
  return make("li", "conversation deleted", make("span", "visually-hidden", "Deleted:"), label, undo);
}

function makeLinked({ appID, title }, { isCurrent, isRunning }, actions) {
  const label = make("span", "title", title);
  label.dir = "auto";
  const link = make("a", "", label);
  link.href = urlOf(appID);
  link.title = title;
  if (isCurrent) link.setAttribute("aria-current", "page");
  if (isRunning) link.append(" ", make("span", "running", make("span", "visually-hidden", "Generating a reply")));
  const rename = makeIconButton(`Rename “${title}”`, "M12.5 4.5l3 3L7 16H4v-3z");
  const remove = makeIconButton(`Delete “${title}”`, "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6");
  const item = make("li", "conversation", link, make("span", "actions", rename, remove));
  const startRenaming = () => editTitle(item, title, (newTitle, byKey) => actions.rename(appID, newTitle, byKey));
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // open in another tab or window
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
 * @param {(title: string, byKey: boolean) => void} onEnd `byKey`: editing ended with Enter or Escape
 */
function editTitle(item, title, onEnd) {
  const input = make("input", "");
  input.value = title;
  input.dir = "auto";
  input.maxLength = 200;
  input.setAttribute("aria-label", "Title");
  let ended = false;
  const end = (newTitle, byKey) => {
    if (ended) return;
    ended = true; // removing the input causes a blur event, which would end it again
    onEnd(newTitle.trim() || title, byKey);
  };
  input.addEventListener("blur", () => end(input.value, false));
  input.addEventListener("keydown", (event) => {
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault(); // Escape must not close the drawer or stop a reply, too
    end(event.key === "Enter" ? input.value : title, true);
  });
  item.replaceChildren(input);
  item.classList.add("editing");
  input.select();
}
