// Syntax highlighting. The highlighter and each language are loaded on first use.

import { morph } from "./morph.js";
import { sanitize } from "./sanitizer.js";

const MAX_LENGTH = 30_000; // characters; longer code is not highlighted
const MAX_PARTIAL = 5_000; // characters of incomplete code that are highlighted again with each change

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
let lastResult = { text: "", language: "", html: "" };

/**
 * Highlight code now, or as soon as its language is loaded.
 *
 * @param {Element} code contains only text; the attribute `data-language` names its language
 * @param {boolean} isPartial whether more code will follow
 */
export function highlight(code, isPartial) {
  const language = LANGUAGE_BY_NAME.get((code.dataset.language ?? "").toLowerCase());
  if (!language || code.textContent.length > MAX_LENGTH) return;
  if (!highlighter?.getLanguage(language)) load(language);
  else if (isPartial) highlightPartial(code, language);
  else morph(code, makeHighlighted(code.textContent, language));
}

/** Highlight only the beginning of long incomplete code, which limits the cost of each change. */
function highlightPartial(code, language) {
  const text = code.textContent;
  const part = text.length > MAX_PARTIAL ? text.slice(0, text.lastIndexOf("\n", MAX_PARTIAL) + 1) : text;
  const fragment = makeHighlighted(part, language);
  fragment.append(text.slice(part.length));
  morph(code, fragment);
}

function makeHighlighted(text, language) {
  if (lastResult.text !== text || lastResult.language !== language) {
    lastResult = { text, language, html: highlighter.highlight(text, { language, ignoreIllegals: true }).value };
  }
  return sanitize(lastResult.html);
}

/** @param {string} language */
function load(language) {
  if (!loading.has(language)) loading.set(language, importLanguage(language));
}

async function importLanguage(language) {
  try {
    const [core, grammar] = await Promise.all([
      import("../../vendor/highlight/core.js"),
      import(`../../vendor/highlight/${language}.js`),
    ]);
    highlighter = core.default;
    highlighter.registerLanguage(language, grammar.default);
  } catch {
    loading.delete(language); // perhaps offline: the next code block tries again
    return;
  }
  for (const code of document.querySelectorAll("code[data-language]:not(:has(*))")) {
    if (LANGUAGE_BY_NAME.get(code.dataset.language.toLowerCase()) === language) highlight(code, false);
  }
}
