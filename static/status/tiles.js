// The tiles: current values with a note on each.

import { bytes, count, duration, longDuration, percent, rate } from "./format.js";

/** @param {import("./status_feed.js").Update} update @returns {Record<string, [string, string]>} value and note by tile */
function tiles({ sample, last_minute: minute, all, totals, database, ollama }) {
  return {
    replies: [count(sample.replies), `${count(totals.begun)} started since process start`],
    viewers: [count(sample.viewers), `${count(totals.viewers_dropped)} dropped since process start`],
    lines: [rate(sample.lines), `${count(totals.lines)} since process start`],
    latency: [duration(minute.line_latency_p50), `per line, median of 1 min; p99 ${duration(minute.line_latency_p99)}`],
    first: [duration(all.first_event_p50), `median of 10 min, incl. model time; p99 ${duration(all.first_event_p99)}`],
    batches: [rate(sample.batches), `median duration ${duration(minute.journal_batch_p50)}; p99 ${duration(minute.journal_batch_p99)}`],
    database: [stateLabel(database), stateNote(database)],
    ollama: [stateLabel(ollama), stateNote(ollama)],
    lag: [duration(sample.loop_lag), "maximum of the last 2 s"],
    cpu: [percent(sample.cpu), "of one core"],
    memory: [bytes(sample.memory), "resident"],
    failovers: [count(totals.adopted), `from other processes; ${count(totals.continued)} times after Ollama died`],
  };
}

function stateLabel({ state }) {
  return { ok: "reachable", unreachable: "unreachable", unknown: "…", "stand-in": "embedded model" }[state] ?? state;
}

function stateNote({ state, seconds, response_time: responseTime }) {
  if (state === "unreachable") return `for ${longDuration(seconds)}`;
  return responseTime === null ? "" : `response time ${duration(responseTime)}`;
}

/** @param {import("./status_feed.js").Update} update */
export function showTiles(update) {
  for (const [name, [value, note]] of Object.entries(tiles(update))) {
    const tile = document.getElementById(`tile-${name}`);
    tile.querySelector(".value").textContent = value;
    tile.querySelector(".note").textContent = note;
  }
  document.getElementById("tile-database").classList.toggle("error", update.database.state === "unreachable");
  document.getElementById("tile-ollama").classList.toggle("error", !["ok", "unknown", "stand-in"].includes(update.ollama.state));
}
