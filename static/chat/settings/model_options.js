// A conversation's settings: which there are, what may stand in them, and what of them the server is sent.

/**
 * What a person has set, as text by the name of the field; what is not there is left to the model.
 *
 * @typedef {Object<string, string>} Settings
 *
 * @typedef {object} Field
 * @property {string} name Ollama's name of the option
 * @property {string} label
 * @property {string} hint
 * @property {number} least
 * @property {number} most
 * @property {boolean} whole whether it is a whole number
 */

const MOST = 2 ** 31 - 1; // Ollama keeps whole numbers in 32 bits

/** @type {Field[]} Names and defaults are from Ollama's documentation of the Modelfile's parameters. */
export const FIELDS = [
  { name: "temperature", label: "Temperature", hint: "Low is matter-of-fact, high is inventive. Usually 0.8.", least: 0, most: 2, whole: false },
  { name: "num_ctx", label: "Context length", hint: "How many tokens the model keeps in view. More takes more memory.", least: 16, most: 16_777_216, whole: true },
  { name: "num_predict", label: "Longest reply", hint: "In tokens; -1 for no limit.", least: -1, most: MOST, whole: true },
  { name: "seed", label: "Seed", hint: "The same number gives the same reply to the same prompt.", least: 0, most: MOST, whole: true },
  { name: "top_p", label: "Top p", hint: "Leaves out unlikely words. Usually 0.9.", least: 0, most: 1, whole: false },
  { name: "top_k", label: "Top k", hint: "Chooses among so many words. Usually 40.", least: 0, most: MOST, whole: true },
  { name: "min_p", label: "Min p", hint: "Leaves out words much less likely than the best. Usually 0.", least: 0, most: 1, whole: false },
  { name: "repeat_penalty", label: "Repeat penalty", hint: "Above 1 keeps the model from repeating itself. Usually 1.1.", least: 0, most: 10, whole: false },
];

/**
 * What is wrong with a field's text, in words; empty if nothing is.
 *
 * @param {Field} field
 * @param {string} text
 * @returns {string}
 */
export function complaintAbout({ label, least, most, whole }, text) {
  if (!text.trim()) return "";
  const number = toNumber(text);
  const kind = whole ? "a whole number" : "a number";
  const range = most >= 2 ** 24 ? `of ${least} or more` : `from ${least} to ${most}`;
  if (Number.isNaN(number) || (whole && !Number.isInteger(number)) || number < least) {
    return `${label} must be ${kind} ${range}.`;
  }
  return number > most ? `${label} may be ${most} at most.` : "";
}

/** Ollama's options, without those left to the model. @param {Settings} settings @returns {Object<string, number>} */
export function optionsOf(settings) {
  const set = FIELDS.filter(({ name }) => settings[name]?.trim());
  return Object.fromEntries(set.map(({ name }) => [name, toNumber(settings[name])]));
}

/** Both 0.7 and 0,7 are meant as numbers. @param {string} text */
function toNumber(text) {
  const plain = text.trim().replace(",", ".");
  return /^[+-]?(\d+\.?\d*|\.\d+)$/.test(plain) ? Number(plain) : NaN;
}
