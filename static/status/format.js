// Formats numbers with their units.

const NO_VALUE = "–";
const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const decimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const timeFormat = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/** @param {number | null | undefined} value */
export function count(value) {
  return value == null ? NO_VALUE : integer.format(value);
}

/** A number per second. @param {number | null} value */
export function rate(value) {
  return value == null ? NO_VALUE : `${(value < 100 ? decimal : integer).format(value)} /s`;
}

/** A duration in milliseconds or seconds. @param {number | null} seconds */
export function duration(seconds) {
  if (seconds == null) return NO_VALUE;
  if (seconds < 0.9995) return `${(seconds < 0.01 ? decimal : integer).format(1000 * seconds)} ms`;
  return `${(seconds < 100 ? decimal : integer).format(seconds)} s`;
}

/** @param {number | null} fraction */
export function percent(fraction) {
  return fraction == null ? NO_VALUE : `${integer.format(100 * fraction)} %`;
}

/** @param {number | null} size in bytes */
export function bytes(size) {
  if (size == null) return NO_VALUE;
  return size < 1e9 ? `${integer.format(size / 1e6)} MB` : `${decimal.format(size / 1e9)} GB`;
}

/** A duration without milliseconds, up to days. @param {number} seconds */
export function longDuration(seconds) {
  if (seconds < 100) return `${integer.format(seconds)} s`;
  if (seconds < 6000) return `${integer.format(seconds / 60)} min`;
  if (seconds < 172800) return `${decimal.format(seconds / 3600)} h`;
  return `${decimal.format(seconds / 86400)} days`;
}

/** Hours and minutes. @param {number} seconds since 1970 */
export function timeOfDay(seconds) {
  return timeFormat.format(seconds * 1000);
}
