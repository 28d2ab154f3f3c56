// The model options in the settings dialog: fields, validation, and conversion to Ollama's options.

/**
 * The user's settings as text by field name. Options that are not set keep the model's default.
 *
 * @typedef {Object<string, string>} Settings
 *
 * @typedef {object} Field
 * @property {string} name of Ollama's option
 * @property {string} label
 * @property {string} hint
 * @property {number} min
 * @property {number} max
 * @property {boolean} isInteger
 */

const MAX_INT = 2 ** 31 - 1; // Ollama stores integers in 32 bits

/** @type {Field[]} Names and defaults are from Ollama's documentation of the Modelfile parameters. */
export const FIELDS = [
  { name: "temperature", label: "Temperature", hint: "Higher values give more varied replies. Default: 0.8.", min: 0, max: 2, isInteger: false },
  { name: "num_ctx", label: "Context length", hint: "The model's window: tokens of the conversation and the reply. A larger one takes more memory.", min: 16, max: 16_777_216, isInteger: true },
  { name: "num_predict", label: "Maximum reply length", hint: "In tokens; -1 means no limit.", min: -1, max: MAX_INT, isInteger: true },
  { name: "seed", label: "Seed", hint: "The same seed and prompt give the same reply.", min: 0, max: MAX_INT, isInteger: true },
  { name: "top_p", label: "Top p", hint: "Cumulative probability of the tokens to sample from. Default: 0.9.", min: 0, max: 1, isInteger: false },
  { name: "top_k", label: "Top k", hint: "Number of most likely tokens to sample from. Default: 40.", min: 0, max: MAX_INT, isInteger: true },
  { name: "min_p", label: "Min p", hint: "Minimum probability relative to the most likely token. Default: 0.", min: 0, max: 1, isInteger: false },
  { name: "repeat_penalty", label: "Repeat penalty", hint: "Values above 1 reduce repetition. Default: 1.1.", min: 0, max: 10, isInteger: false },
];

/** What happens when a conversation has outgrown the model's window: the choices by the value of the API's field. */
export const CONTEXT_FULL = { cut: "Leave out the oldest messages", stop: "Stop and ask" };

/**
 * Validate a field.
 *
 * @param {Field} field
 * @param {string} text
 * @returns {string} an error message; empty if the text is valid
 */
export function validate({ label, min, max, isInteger }, text) {
  if (!text.trim()) return "";
  const number = toNumber(text);
  const type = isInteger ? "a whole number" : "a number";
  const range = max >= 2 ** 24 ? `of ${min} or more` : `from ${min} to ${max}`;
  if (Number.isNaN(number) || (isInteger && !Number.isInteger(number)) || number < min) {
    return `${label} must be ${type} ${range}.`;
  }
  return number > max ? `${label} must be at most ${max}.` : "";
}

/** Convert settings to Ollama's options. @param {Settings} settings @returns {Object<string, number>} */
export function toOptions(settings) {
  const fields = FIELDS.filter(({ name }) => settings[name]?.trim());
  return Object.fromEntries(fields.map(({ name }) => [name, toNumber(settings[name])]));
}

/** Parse a number with a decimal point or comma. @param {string} text */
function toNumber(text) {
  const normalized = text.trim().replace(",", ".");
  return /^[+-]?(\d+\.?\d*|\.\d+)$/.test(normalized) ? Number(normalized) : NaN;
}
