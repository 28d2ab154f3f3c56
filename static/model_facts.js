// What Ollama's list of models tells about one of them, and what can be guessed where an older Ollama tells less.

const UNITS = ["B", "kB", "MB", "GB", "TB"];
const SEEING_FAMILIES = /^(clip|mllama|llama4|mistral3|gemma4|qwen\d+(\.\d+)?vl.*)$/i;
const SEEING_NAMES = /llava|vision|[-:\d]vl\b|moondream|minicpm-v/i;

/** Embedding models are listed too, and cannot chat. @param {import("./api.js").Model} model */
export function canChat({ name, details, capabilities }) {
  if (capabilities?.length) return capabilities.includes("completion");
  return !/embed|bert/i.test(`${name} ${details?.family}`);
}

/** @param {import("./api.js").Model | undefined} model @returns {boolean | null} null: there is no telling */
export function takesImages(model) {
  if (!model) return null;
  if (model.capabilities?.length) return model.capabilities.includes("vision");
  const families = [model.details?.family ?? "", ...(model.details?.families ?? [])];
  return families.some((family) => SEEING_FAMILIES.test(family)) || SEEING_NAMES.test(model.name) || null;
}

/** Name, parameters and size on disk. @param {import("./api.js").Model} model @returns {string} */
export function describe({ name, details, size }) {
  return [name, details?.parameter_size, size ? bytes(size) : ""].filter(Boolean).join(" · ");
}

/** @param {number} count */
function bytes(count) {
  const power = Math.min(Math.floor(Math.log10(count) / 3), UNITS.length - 1);
  const number = count / 1000 ** power;
  return `${number.toFixed(number < 10 && power ? 1 : 0)} ${UNITS[power]}`;
}
