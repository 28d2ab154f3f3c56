// Colours for code. The highlighter and its languages are loaded when code in one of them first appears.

import { morph } from "./morph.js";
import { allowedHTML } from "./sanitizer.js";

const LIMIT = 30_000; // characters; longer code stays plain
const PARTLY = 5_000; // characters of code still coming that are coloured again with each change

/** Each language with a file in static/vendor/highlight/, and its other names. */
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
const NAMES = new Map(
  Object.entries(LANGUAGES).flatMap(([language, others]) =>
    [language, ...others.split(" ")].filter(Boolean).map((name) => [name, language]),
  ),
);

/** @type {Map<string, Promise<void>>} */
const loading = new Map();
let highlighter = null;
let lastPart = { text: "", language: "", html: "" };

/**
 * Colour code now, or where its language has still to be loaded, as soon as it is there.
 *
 * @param {Element} code holds nothing but text; its language's name is the attribute `data-language`
 * @param {boolean} coming whether more of it is coming
 */
export function highlight(code, coming) {
  const language = NAMES.get((code.dataset.language ?? "").toLowerCase());
  if (!language || code.textContent.length > LIMIT) return;
  if (!highlighter?.getLanguage(language)) load(language);
  else if (coming) paintPart(code, language);
  else morph(code, painted(code.textContent, language));
}

/** Code that is long and still coming is coloured at its beginning only: what a change costs is bounded. */
function paintPart(code, language) {
  const text = code.textContent;
  const part = text.length > PARTLY ? text.slice(0, text.lastIndexOf("\n", PARTLY) + 1) : text;
  const fragment = painted(part, language);
  fragment.append(text.slice(part.length));
  morph(code, fragment);
}

function painted(text, language) {
  if (lastPart.text !== text || lastPart.language !== language) {
    lastPart = { text, language, html: highlighter.highlight(text, { language, ignoreIllegals: true }).value };
  }
  return allowedHTML(lastPart.html);
}

/** @param {string} language */
function load(language) {
  if (!loading.has(language)) loading.set(language, fetchLanguage(language));
}

async function fetchLanguage(language) {
  try {
    const [core, grammar] = await Promise.all([
      import("../../vendor/highlight/core.js"),
      import(`../../vendor/highlight/${language}.js`),
    ]);
    highlighter = core.default;
    highlighter.registerLanguage(language, grammar.default);
  } catch {
    loading.delete(language); // offline perhaps: the next code tries again
    return;
  }
  for (const code of document.querySelectorAll("code[data-language]:not(:has(*))")) {
    if (NAMES.get(code.dataset.language.toLowerCase()) === language) highlight(code, false);
  }
}
