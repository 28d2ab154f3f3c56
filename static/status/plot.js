// One plot of the last minutes: lines over time, and the same in words for those who do not see it.

import { make } from "../shared/dom.js";
import { timeOfDay } from "./format.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";

const LEAST_SPAN = 120; // seconds
const HEIGHT = 132;
const FONT = "11px ui-sans-serif, system-ui, sans-serif";

/**
 * @typedef {object} Subject what is plotted
 * @property {string} title
 * @property {[string, string][]} series of each its field in a sample and its name; two at most
 * @property {(value: number | null) => string} format
 * @property {number} least the value that the scale reaches at least
 */

export class Plot {
  #subject;
  #plot;
  #canvas = make("div", "canvas");

  /** @param {Subject} subject */
  constructor(subject) {
    this.#subject = subject;
    this.#canvas.setAttribute("role", "img");
    const keys = subject.series.length < 2 ? [] : subject.series.map(([, name], at) => make("span", `key key-${at + 1}`, name));
    this.element = make("figure", "", make("figcaption", "", make("span", "", subject.title), make("span", "keys", ...keys)), this.#canvas);
  }

  /** Draw, now that the element is on the page. */
  attach() {
    this.#plot = new uPlot(this.#options(), [[], ...this.#subject.series.map(() => [])], this.#canvas);
    new ResizeObserver(() => this.#plot.setSize({ width: this.#width(), height: HEIGHT })).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot.redraw(false, true));
  }

  /** @param {import("./status_feed.js").Sample[]} samples oldest first, at least one */
  show(samples) {
    const columns = this.#subject.series.map(([field]) => samples.map((sample) => sample[field]));
    this.#plot.setData([samples.map(({ time }) => time), ...columns]);
    const words = this.#subject.series.map(([, name], at) => this.#inWords(name, columns[at]));
    this.#canvas.setAttribute("aria-label", `${this.#subject.title}: ${words.join("; ")}.`);
  }

  #inWords(name, column) {
    const { format, series } = this.#subject;
    const values = column.filter((value) => value !== null);
    const prefix = series.length < 2 ? "" : `${name} `;
    if (!values.length) return `${prefix}nothing measured`;
    const last = format(values.at(-1));
    return `${prefix}${last} at last, from ${format(Math.min(...values))} to ${format(Math.max(...values))}`;
  }

  #width() {
    return Math.max(120, this.#canvas.clientWidth);
  }

  #options() {
    const { series, format, least } = this.#subject;
    const axis = { font: FONT, stroke: () => colour("--ink-soft"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false } };
    return {
      width: this.#width(),
      height: HEIGHT,
      padding: [8, 4, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: false, range: (plot, min, max) => [Math.min(min ?? 0, (max ?? LEAST_SPAN) - LEAST_SPAN), max ?? LEAST_SPAN] },
        y: { range: (plot, min, max) => [0, Math.max(least, (max ?? 0) * 1.1)] },
      },
      axes: [
        { ...axis, incrs: [60, 120, 300], space: 48, size: 24, values: (plot, ticks) => ticks.map(timeOfDay) },
        { ...axis, space: 28, size: 58, values: (plot, ticks) => ticks.map(format) },
      ],
      series: [
        {},
        ...series.map((_, at) => ({
          stroke: () => colour(`--series-${at + 1}`),
          width: 1.5,
          dash: at ? [5, 3] : [],
          points: { show: true, filter: lonely, size: 4, fill: () => colour(`--series-${at + 1}`) },
        })),
      ],
    };
  }
}

/** The values between two gaps, to which no line leads: shown as points. @returns {number[]} */
function lonely(plot, series) {
  const values = plot.data[series];
  return [...values.keys()].filter((at) => values[at] != null && values[at - 1] == null && values[at + 1] == null);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name);
}
