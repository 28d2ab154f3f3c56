// Syntax highlighting. The highlighter and each language are loaded on first use.

const MAX_LENGTH = 30_000; // characters; longer code is not highlighted
const MAX_PARTIAL = 5_000; // characters of incomplete code that are highlighted again with each change
const MAX_SPANS = 2_500; // colours in one piece of code; the rest has none: the page takes 20 microseconds for each
const MAX_LOADING_TIME = 1_000; // milliseconds of a job to wait for languages; later code has its colours once they are there

/** The languages with a file in static/vendor/highlight/, and their aliases. */
const LANGUAGES = {
  bash: "sh shell zsh",
  c: "h",
  cpp: "c++ cc hpp cxx",
  csharp: "cs c#",
  css: "",
  diff: "patch",
  dockerfile: "docker",
  go: "golang",
  ini: "toml",
  java: "",
  javascript: "js jsx mjs cjs node",
  json: "jsonc json5",
  kotlin: "kt kts",
  php: "",
  python: "py python3 py3",
  ruby: "rb",
  rust: "rs",
  sql: "postgresql postgres mysql sqlite psql",
  swift: "",
  typescript: "ts tsx",
  xml: "html xhtml svg rss atom",
  yaml: "yml",
};
const LANGUAGE_BY_NAME = new Map(
  Object.entries(LANGUAGES).flatMap(([language, aliases]) =>
    [language, ...aliases.split(" ")].filter(Boolean).map((name) => [name, language]),
  ),
);

/** @type {Map<string, Promise<void>>} */
const loading = new Map();
let highlighter = null;
let isEnabled = true;
let loadingEndsAt = 0; // by the clock of performance.now()
let lastResult = { text: "", language: "", html: "" };

/** Called before and after each highlighting. @type {(isHighlighting: boolean) => void} */
let report = () => {};

/**
 * Begin a job.
 *
 * @param {boolean} enabled
 * @param {(isHighlighting: boolean) => void} listener called before and after each highlighting
 */
export function configureHighlighting(enabled, listener) {
  isEnabled = enabled;
  report = listener;
  loadingEndsAt = performance.now() + MAX_LOADING_TIME;
}

/**
 * Load languages. All calls of a job wait for a limited time together: the page stops a job that takes longer.
 *
 * @param {string[]} names
 */
export async function loadLanguages(names) {
  const missing = names.map((name) => LANGUAGE_BY_NAME.get(name.toLowerCase())).filter((name) => name && !loading.has(name));
  if (!isEnabled || !missing.length) return;
  const loaded = Promise.all(missing.map(load));
  const remaining = Math.max(0, loadingEndsAt - performance.now());
  await Promise.race([loaded, new Promise((resolve) => setTimeout(resolve, remaining))]);
}

/**
 * Highlight code.
 *
 * @param {string} text
 * @param {string} name of the language
 * @returns {string | null} HTML; null: the code is too long, or its language is unknown or not loaded
 */
export function highlight(text, name) {
  const language = LANGUAGE_BY_NAME.get(name.toLowerCase());
  if (!isEnabled || text.length > MAX_LENGTH || !language || !highlighter?.getLanguage(language)) return null;
  if (lastResult.text !== text || lastResult.language !== language) {
    report(true);
    lastResult = { text, language, html: highlighter.highlight(text, { language, ignoreIllegals: true }).value };
    report(false);
  }
  return lastResult.html;
}

/**
 * Highlight code that may be incomplete, or may have too many spans: then only its beginning.
 *
 * @param {string} text
 * @param {string} name of the language
 * @param {boolean} isPartial whether more code will follow
 * @returns {{html: string, rest: string}} `rest` follows as text
 */
export function highlightBeginning(text, name, isPartial) {
  if (text.length > MAX_LENGTH) return { html: "", rest: text };
  let end = isPartial ? lineEnd(text, MAX_PARTIAL) : text.length;
  for (;;) {
    const html = highlight(text.slice(0, end), name);
    if (html === null) return { html: "", rest: text };
    const spans = html.split("<span").length - 1;
    if (spans <= MAX_SPANS) return { html, rest: text.slice(end) };
    end = Math.min(lineEnd(text, Math.floor((end * MAX_SPANS) / spans)), Math.floor(end * 0.9));
  }
}

/** The end of the last line that ends within the first characters; there may be none. */
function lineEnd(text, length) {
  if (text.length <= length) return text.length;
  return text.lastIndexOf("\n", length - 1) + 1;
}

/** @param {string} language */
function load(language) {
  const promise = importLanguage(language);
  loading.set(language, promise);
  return promise;
}

async function importLanguage(language) {
  try {
    const [core, grammar] = await Promise.all([
      import("../../../vendor/highlight/core.js"),
      import(`../../../vendor/highlight/${language}.js`),
    ]);
    highlighter = core.default;
    highlighter.registerLanguage(language, grammar.default);
  } catch {
    loading.delete(language); // perhaps offline: the next code block tries again
  }
}
