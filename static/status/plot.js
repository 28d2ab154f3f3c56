// A time series plot with a text alternative for screen readers.

import { make } from "../shared/dom.js";
import { timeOfDay } from "./format.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";

const MIN_SPAN = 120; // seconds
const HEIGHT = 132; // pixels
const FONT = "11px ui-sans-serif, system-ui, sans-serif";

/**
 * @typedef {object} PlotOptions
 * @property {string} title
 * @property {[string, string][]} series field of the sample and label of each; at most two
 * @property {(value: number | null) => string} format
 * @property {number} minRange the smallest upper end of the value axis
 */

export class Plot {
  #plotOptions;
  #plot;
  #canvas = make("div", "plot-canvas");

  /** @param {PlotOptions} options */
  constructor(options) {
    this.#plotOptions = options;
    this.#canvas.setAttribute("role", "img");
    const legend = options.series.length < 2 ? [] : options.series.map(([, label], index) => make("span", `legend-item legend-item-${index + 1}`, label));
    this.element = make("figure", "", make("figcaption", "", make("span", "", options.title), make("span", "legend", ...legend)), this.#canvas);
  }

  /** Create the plot. The element must be in the document. */
  attach() {
    this.#plot = new uPlot(this.#uPlotOptions(), [[], ...this.#plotOptions.series.map(() => [])], this.#canvas);
    new ResizeObserver(() => this.#plot.setSize({ width: this.#width(), height: HEIGHT })).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot.redraw(false, true));
  }

  /** @param {import("./status_feed.js").Sample[]} samples oldest first, at least one */
  show(samples) {
    const columns = this.#plotOptions.series.map(([field]) => samples.map((sample) => sample[field]));
    this.#plot.setData([samples.map(({ time }) => time), ...columns]);
    const descriptions = this.#plotOptions.series.map(([, label], index) => this.#describe(label, columns[index]));
    this.#canvas.setAttribute("aria-label", `${this.#plotOptions.title}: ${descriptions.join("; ")}.`);
  }

  #describe(label, column) {
    const { format, series } = this.#plotOptions;
    const values = column.filter((value) => value !== null);
    const prefix = series.length < 2 ? "" : `${label} `;
    if (!values.length) return `${prefix}no data`;
    const range = `${format(Math.min(...values))} to ${format(Math.max(...values))}`;
    return `${prefix}latest ${format(values.at(-1))}, range ${range}`;
  }

  #width() {
    return Math.max(120, this.#canvas.clientWidth);
  }

  #uPlotOptions() {
    const { series, format, minRange } = this.#plotOptions;
    const axis = { font: FONT, stroke: () => color("--text-muted"), grid: { stroke: () => color("--border"), width: 1 }, ticks: { show: false } };
    return {
      width: this.#width(),
      height: HEIGHT,
      padding: [8, 4, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: false, range: (plot, min, max) => [Math.min(min ?? 0, (max ?? MIN_SPAN) - MIN_SPAN), max ?? MIN_SPAN] },
        y: { range: (plot, min, max) => [0, Math.max(minRange, (max ?? 0) * 1.1)] },
      },
      axes: [
        { ...axis, incrs: [60, 120, 300], space: 48, size: 24, values: (plot, ticks) => ticks.map(timeOfDay) },
        { ...axis, space: 28, size: 58, values: (plot, ticks) => ticks.map(format) },
      ],
      series: [
        {},
        ...series.map((_, index) => ({
          stroke: () => color(`--series-${index + 1}`),
          width: 1.5,
          dash: index ? [5, 3] : [],
          points: { show: true, filter: isolatedPoints, size: 4, fill: () => color(`--series-${index + 1}`) },
        })),
      ],
    };
  }
}

/** Indices of values between two gaps: they have no line, so show a point. @returns {number[]} */
function isolatedPoints(plot, series) {
  const values = plot.data[series];
  return [...values.keys()].filter((index) => values[index] != null && values[index - 1] == null && values[index + 1] == null);
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name);
}
