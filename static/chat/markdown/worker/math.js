// TeX math in Markdown: kept as source text, so that underscores, asterisks and backslashes in it are not markup.

// Dollar signs delimit math by pandoc's rule: no space on the inner side, and no digit after the closing one, so that
// prices are not math. Math does not span a blank line: TeX does not allow it, and Markdown blocks end there.
const INLINE = /^(?:\$\$(?:[^$\\]|\\[^])+?\$\$|\$(?![\s$])(?:[^$\\\n`]|\\.)*?(?<!\s)\$(?!\d)|\\\([^]+?\\\)|\\\[[^]+?\\\])/;
const DISPLAY = /^ {0,3}(\$\$(?:(?!\n[ \t]*\n)[^$])+\$\$|\\\[(?:(?!\n[ \t]*\n|\\\])[^])+\\\])([ \t]*(?:\n+|$))?/;
const DISPLAY_BEGINS = /\n {0,3}(?:\$\$|\\\[)| (?:\$\$|\\\[)(?=\n)/;
const INLINE_ANYWHERE = new RegExp(INLINE.source.slice(1), "g");

// Math without its end yet. A single dollar sign is ambiguous until then.
const OPEN_INLINE = /^(?:\$\$[^$]+|\\\((?:(?!\\\))[^])+|\\\[(?:(?!\\\])[^])+)$/;
const OPEN_DISPLAY = /^ {0,3}(?:\$\$(?:(?!\n[ \t]*\n)[^$])+\$?|\\\[(?:(?!\n[ \t]*\n|\\\])[^])+)$/;

/**
 * Extensions for marked.
 *
 * @param {boolean} isPartial whether the end may be missing
 */
export function mathExtensions(isPartial) {
  return [
    {
      name: "display",
      level: "block",
      start: (source) => DISPLAY_BEGINS.exec(firstParagraph(source))?.index,
      tokenizer: (source) => token("display", matchDisplay(source) ?? (isPartial && OPEN_DISPLAY.exec(source))),
      renderer: ({ raw }) => `<p><span class="math">${escape(raw.trim())}</span></p>\n`,
    },
    {
      name: "math",
      level: "inline",
      start: (source) => toStart(source.search(/\$|\\[([]/)),
      tokenizer: (source) => token("math", INLINE.exec(source) ?? (isPartial && OPEN_INLINE.exec(source))),
      renderer: ({ raw }) => `<span class="math">${escape(raw)}</span>`,
    },
  ];
}

/** Match math on lines of its own. Within a line it is inline math. */
function matchDisplay(source) {
  const match = DISPLAY.exec(source);
  return match && (match[2] !== undefined || match[1].includes("\n")) ? match : null;
}

function token(type, match) {
  return match ? { type, raw: match[0] } : undefined;
}

/** Limit the search to the first paragraph: searching the whole rest of a long reply for each paragraph is slow. */
function firstParagraph(source) {
  const end = source.indexOf("\n\n");
  return end < 0 ? source : source.slice(0, end);
}

function toStart(index) {
  return index < 0 ? undefined : index;
}

/** Escape text for HTML. @param {string} text @returns {string} */
export function escape(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/**
 * Mask math before marked searches for the end of emphasis.
 *
 * @param {string} source
 * @returns {string} of the same length
 */
export function maskMath(source) {
  return source.replace(INLINE_ANYWHERE, (match) => "x".repeat(match.length));
}
