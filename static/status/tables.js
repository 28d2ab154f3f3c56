// The living processes, and how this one's replies ended.

import { make } from "../shared/dom.js";
import { count, duration } from "./format.js";

const ENDS = [
  ["done", "done"],
  ["stopped", "stopped by a person"],
  ["failed", "failed"],
  ["truncated", "cut short"],
  ["interrupted", "interrupted, and could not be continued"],
];

/** @param {HTMLElement} body @param {import("./status_feed.js").Now} now */
export function showProcesses(body, { processes, process }) {
  if (!processes) {
    body.replaceChildren(wide("Not known while the database does not answer.", 3));
    return;
  }
  body.replaceChildren(
    ...processes.map(({ id, age, replies }) => {
      const name = make("th", "", id ?? "none at the moment", ...(id === process ? [make("small", "", " this one")] : []));
      name.scope = "row";
      return make("tr", "", name, make("td", "", age === null ? "" : duration(age)), make("td", "", count(replies)));
    }),
  );
}

/** @param {HTMLElement} body @param {import("./status_feed.js").Now} now */
export function showEnded(body, { totals }) {
  const rows = ENDS.map(([status, words]) => [words, totals.ended[status]]);
  rows.push(["went on in another process", totals.moved]);
  body.replaceChildren(
    ...rows.map(([words, replies]) => {
      const name = make("th", "", words);
      name.scope = "row";
      return make("tr", "", name, make("td", "", count(replies)));
    }),
  );
}

function wide(sentence, columns) {
  const cell = make("td", "", sentence);
  cell.colSpan = columns;
  return make("tr", "", cell);
}
