// Entry point of the status page: passes the feed's data to the banner, tiles, plots and tables.

import { bytes, count, duration, percent, rate } from "./format.js";
import { Plot } from "./plot.js";
import { StatusBanner } from "./status_banner.js";
import { StatusFeed } from "./status_feed.js";
import { showOutcomes, showProcesses } from "./tables.js";
import { showTiles } from "./tiles.js";

const MAX_SAMPLES = 300;
const PERCENTILES = (name) => [[`${name}_p50`, "median"], [`${name}_p99`, "p99"]];

const find = (id) => document.getElementById(id);

const banner = new StatusBanner(find("banner"), find("announcer"));
const plots = [
  { title: "Lines per second", series: [["lines", "lines"]], format: rate, minRange: 10 },
  { title: "Replies and viewers", series: [["replies", "replies"], ["viewers", "viewers"]], format: count, minRange: 4 },
  { title: "Added latency per line", series: PERCENTILES("line_latency"), format: duration, minRange: 0.01 },
  { title: "Time to first event", series: PERCENTILES("first_event"), format: duration, minRange: 0.1 },
  { title: "Journal batch duration", series: PERCENTILES("journal_batch"), format: duration, minRange: 0.01 },
  { title: "Event loop lag", series: [["loop_lag", "lag"]], format: duration, minRange: 0.02 },
  { title: "CPU", series: [["cpu", "usage"]], format: percent, minRange: 1 },
  { title: "Memory", series: [["memory", "memory"]], format: bytes, minRange: 100e6 },
].map((options) => new Plot(options));
let samples = [];

find("plots").append(...plots.map((plot) => plot.element));
for (const plot of plots) plot.attach();
new StatusFeed({
  onHistory(history, isNewProcess) {
    if (isNewProcess) samples = [];
    add(...history);
  },
  onUpdate(update) {
    document.body.classList.remove("stale");
    add(update.sample);
    banner.show(update);
    showTiles(update);
    showProcesses(find("processes"), update);
    showOutcomes(find("outcomes"), update);
    for (const plot of plots) plot.show(samples);
  },
  onForbidden(message) {
    document.body.classList.add("stale");
    banner.showForbidden(message);
  },
  onStale(seconds) {
    document.body.classList.add("stale");
    banner.showStale(seconds);
  },
});

function add(...newSamples) {
  const newest = samples.at(-1)?.time ?? 0;
  samples = [...samples, ...newSamples.filter((sample) => sample.time > newest)].slice(-MAX_SAMPLES);
}
