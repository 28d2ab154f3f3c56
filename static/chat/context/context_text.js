// What the model was sent of a conversation, and how much of its window that takes, in words.

const HIGH = 3 / 4; // part of the window from which on it is nearly full
const NEAR_THE_END = 19 / 20; // part of the window from which on a reply that was cut short has ended with the window

/** @typedef {import("../../shared/api.js").Context} Context */
/** @typedef {import("../../shared/api.js").History} History */

/** The context of the running reply, else of the newest one; null if it is not known. @param {History} history @returns {Context | null} */
export function contextOf({ reply, context }) {
  return reply?.context ?? context ?? null;
}

/** @param {Context} context */
export function describeTokens({ tokens, estimated, window }) {
  const count = `${estimated ? "about " : ""}${format(tokens)}`;
  return window ? `${count} of ${countOf(window, "token")}` : `${count} ${tokens === 1 ? "token" : "tokens"}`;
}

/** How much of the window is used, from 0 to 1; null if that is not known. @param {Context} context @returns {number | null} */
export function usedShare({ tokens, window }) {
  return window ? Math.min(tokens / window, 1) : null;
}

/** @param {Context} context */
export function isNearlyFull(context) {
  return usedShare(context) >= HIGH;
}

/** Whether the model was not sent everything. @param {Context} context */
export function isIncomplete({ left_out: leftOut, images_left_out: images, system_left_out: system }) {
  return Boolean(leftOut || images || system);
}

/**
 * Whether a reply that was cut short has filled the window. The server ends it somewhat earlier if it has overestimated
 * the prompt, so a reply without another limit need not be as near to the end.
 *
 * @param {Context | null} context
 * @param {boolean} hasLimit whether the chat's settings limit its replies
 */
export function endsWithWindow(context, hasLimit) {
  return context !== null && usedShare(context) >= (hasLimit ? NEAR_THE_END : HIGH);
}

/** What was sent and what was not, in sentences. @param {Context} context @returns {string[]} */
export function describeContext(context) {
  const { model, messages, summary, left_out: leftOut, images_left_out: images, system_left_out: system } = context;
  return [
    `${model} was sent ${countOf(messages, "message")} for its last reply.`,
    leftOut && `${countOf(leftOut, "earlier message")} ${leftOut === 1 ? "was" : "were"} left out.`,
    summary && "A summary was sent in their place.",
    images && `${countOf(images, "message")} ${images === 1 ? "was" : "were"} sent without images.`,
    system && `${countOf(system, "system message")} ${system === 1 ? "was" : "were"} left out.`,
    context.window ? "The window can be changed in the settings." : `The window of ${model} is not known yet.`,
  ].filter(Boolean);
}

/** @param {number} count @param {string} noun */
export function countOf(count, noun) {
  return `${format(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** @param {number} count */
function format(count) {
  return count.toLocaleString("en");
}
