// Numbers with their units, as a person reads them.

const NOTHING = "–";
const wholes = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/** @param {number | null | undefined} value */
export function count(value) {
  return value == null ? NOTHING : wholes.format(value);
}

/** A number of something by the second. @param {number | null} value */
export function rate(value) {
  return value == null ? NOTHING : `${(value < 100 ? tenths : wholes).format(value)} /s`;
}

/** A time that something takes. @param {number | null} seconds */
export function time(seconds) {
  if (seconds == null) return NOTHING;
  if (seconds < 0.9995) return `${(seconds < 0.01 ? tenths : wholes).format(1000 * seconds)} ms`;
  return `${(seconds < 100 ? tenths : wholes).format(seconds)} s`;
}

/** A part of one whole. @param {number | null} part */
export function percent(part) {
  return part == null ? NOTHING : `${wholes.format(100 * part)} %`;
}

/** @param {number | null} size in bytes */
export function bytes(size) {
  if (size == null) return NOTHING;
  return size < 1e9 ? `${wholes.format(size / 1e6)} MB` : `${tenths.format(size / 1e9)} GB`;
}

/** For how long something has been so. @param {number} seconds */
export function duration(seconds) {
  if (seconds < 100) return `${wholes.format(seconds)} s`;
  if (seconds < 6000) return `${wholes.format(seconds / 60)} min`;
  if (seconds < 172800) return `${tenths.format(seconds / 3600)} h`;
  return `${tenths.format(seconds / 86400)} days`;
}

/** The time of day. @param {number} seconds since 1970 */
export function timeOfDay(seconds) {
  return clock.format(seconds * 1000);
}
