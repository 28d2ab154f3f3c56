// Wires the status page: the feed to the verdict, the figures, the plots and the tables.

import { bytes, count, percent, rate, time } from "./format.js";
import { Plot } from "./plot.js";
import { Verdict } from "./status_banner.js";
import { StatusFeed } from "./status_feed.js";
import { showEnded, showProcesses } from "./tables.js";
import { showTiles } from "./tiles.js";

const KEPT = 300;
const MEDIAN_AND_99 = (name) => [[`${name}_p50`, "median"], [`${name}_p99`, "99 %"]];

const find = (id) => document.getElementById(id);

const verdict = new Verdict(find("verdict"), find("announcer"));
const plots = [
  { title: "Lines per second", series: [["lines", "lines"]], format: rate, least: 10 },
  { title: "Replies and viewers", series: [["replies", "replies"], ["viewers", "viewers"]], format: count, least: 4 },
  { title: "Added latency per line", series: MEDIAN_AND_99("line_latency"), format: time, least: 0.01 },
  { title: "Time to first event", series: MEDIAN_AND_99("first_event"), format: time, least: 0.1 },
  { title: "Time of a journal round", series: MEDIAN_AND_99("journal_round"), format: time, least: 0.01 },
  { title: "Event loop late by", series: [["loop_lag", "late"]], format: time, least: 0.02 },
  { title: "Processor", series: [["processor", "busy"]], format: percent, least: 1 },
  { title: "Memory", series: [["memory", "memory"]], format: bytes, least: 100e6 },
].map((subject) => new Plot(subject));
let samples = [];

find("plots").append(...plots.map((plot) => plot.element));
for (const plot of plots) plot.attach();
new StatusFeed({
  onSamples(older, anew) {
    if (anew) samples = [];
    add(...older);
  },
  onNow(now) {
    document.body.classList.remove("old");
    add(now.sample);
    verdict.show(now);
    showTiles(now);
    showProcesses(find("processes"), now);
    showEnded(find("ended"), now);
    for (const plot of plots) plot.show(samples);
  },
  onRefusal(sentence) {
    document.body.classList.add("old");
    verdict.showRefusal(sentence);
  },
  onOld(seconds) {
    document.body.classList.add("old");
    verdict.showOld(seconds);
  },
});

function add(...more) {
  const newest = samples.at(-1)?.time ?? 0;
  samples = [...samples, ...more.filter((sample) => sample.time > newest)].slice(-KEPT);
}
