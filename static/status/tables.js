// The tables: processes on the database, and replies of this process by outcome.

import { count, longDuration } from "./format.js";
import { make } from "../shared/dom.js";

const OUTCOMES = [
  ["done", "Completed"],
  ["stopped", "Stopped by the user"],
  ["failed", "Failed"],
  ["truncated", "Truncated"],
  ["interrupted", "Interrupted and not resumed"],
];

/** @param {HTMLElement} body @param {import("./status_feed.js").Update} update */
export function showProcesses(body, { processes, process }) {
  if (!processes) {
    const cell = make("td", "", "Unavailable while the database is unreachable.");
    cell.colSpan = 3;
    body.replaceChildren(make("tr", "", cell));
    return;
  }
  body.replaceChildren(
    ...processes.map(({ id, age, replies }) => {
      const name = make("th", "", id ?? "Unassigned", ...(id === process ? [make("small", "", " this process")] : []));
      name.scope = "row";
      return make("tr", "", name, make("td", "", age === null ? "" : longDuration(age)), make("td", "", count(replies)));
    }),
  );
}

/** @param {HTMLElement} body @param {import("./status_feed.js").Update} update */
export function showOutcomes(body, { totals }) {
  const rows = OUTCOMES.map(([status, label]) => [label, totals.ended[status]]);
  rows.push(["Handed over to another process", totals.handed_over]);
  body.replaceChildren(
    ...rows.map(([label, replies]) => {
      const name = make("th", "", label);
      name.scope = "row";
      return make("tr", "", name, make("td", "", count(replies)));
    }),
  );
}
