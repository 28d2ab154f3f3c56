// The figures of now, each with its unit and a note on what it means.

import { bytes, count, duration, percent, rate, time } from "./format.js";

/** @param {import("./status_feed.js").Now} now @returns {Record<string, [string, string]>} value and note, by tile */
function tiles({ sample, minute, all, totals, database, ollama }) {
  return {
    replies: [count(sample.replies), `${count(totals.begun)} begun since the start`],
    viewers: [count(sample.viewers), `${count(totals.viewers_dropped)} dropped since the start`],
    lines: [rate(sample.lines), `${count(totals.lines)} since the start`],
    latency: [time(minute.line_latency_p50), `median of a minute, 99 % of lines within ${time(minute.line_latency_p99)}`],
    first: [time(all.first_event_p50), `median of 10 min, with the model’s time; 99 % within ${time(all.first_event_p99)}`],
    rounds: [rate(sample.rounds), `that take ${time(minute.journal_round_p50)}, 99 % within ${time(minute.journal_round_p99)}`],
    database: [inWords(database), answered(database)],
    ollama: [inWords(ollama), answered(ollama)],
    lag: [time(sample.loop_lag), "at most, in the last 2 s"],
    processor: [percent(sample.processor), "of one core"],
    memory: [bytes(sample.memory), "resident"],
    adopted: [count(totals.adopted), "replies taken over from other processes"],
  };
}

function inWords({ state }) {
  return { ok: "reachable", unreachable: "away", unknown: "…" }[state] ?? state;
}

function answered({ state, seconds, took }) {
  if (state === "unreachable") return `for ${duration(seconds)}`;
  return took === null ? "" : `answered in ${time(took)}`;
}

/** @param {import("./status_feed.js").Now} now */
export function showTiles(now) {
  for (const [name, [value, note]] of Object.entries(tiles(now))) {
    const tile = document.getElementById(`tile-${name}`);
    tile.querySelector(".value").textContent = value;
    tile.querySelector(".note").textContent = note;
  }
  document.getElementById("tile-database").classList.toggle("bad", now.database.state === "unreachable");
  document.getElementById("tile-ollama").classList.toggle("bad", !["ok", "unknown"].includes(now.ollama.state));
}
