// Maths in Markdown: taken as it stands, so that its underscores, asterisks and backslashes stay what they are.

// A dollar sign is one of maths by pandoc's rule: text touches it on its inner side, and no digit follows the last,
// so that prices stay prices. No rule spans a blank line: TeX allows none in maths, and a reply's blocks end there.
const INLINE = /^(?:\$\$(?:[^$\\]|\\[^])+?\$\$|\$(?![\s$])(?:[^$\\\n`]|\\.)*?(?<!\s)\$(?!\d)|\\\([^]+?\\\)|\\\[[^]+?\\\])/;
const DISPLAY = /^ {0,3}(\$\$(?:(?!\n[ \t]*\n)[^$])+\$\$|\\\[(?:(?!\n[ \t]*\n|\\\])[^])+\\\])([ \t]*(?:\n+|$))?/;
const DISPLAY_BEGINS = /\n {0,3}(?:\$\$|\\\[)| (?:\$\$|\\\[)(?=\n)/;
const INLINE_ANYWHERE = new RegExp(INLINE.source.slice(1), "g");

// The same where the end has not come yet. A single dollar sign may be anything until it has.
const OPEN_INLINE = /^(?:\$\$[^$]+|\\\((?:(?!\\\))[^])+|\\\[(?:(?!\\\])[^])+)$/;
const OPEN_DISPLAY = /^ {0,3}(?:\$\$(?:(?!\n[ \t]*\n)[^$])+\$?|\\\[(?:(?!\n[ \t]*\n|\\\])[^])+)$/;

/**
 * Extensions of marked. Their tokens have the type `maths` and keep the source as `raw`.
 *
 * @param {boolean} open whether the end may be missing
 */
export function maths(open) {
  return [
    {
      name: "display",
      level: "block",
      start: (source) => DISPLAY_BEGINS.exec(paragraphOf(source))?.index,
      tokenizer: (source) => token("display", displayIn(source) ?? (open && OPEN_DISPLAY.exec(source))),
      renderer: ({ raw }) => `<p><span class="maths">${escape(raw.trim())}</span></p>\n`,
    },
    {
      name: "maths",
      level: "inline",
      start: (source) => positive(source.search(/\$|\\[([]/)),
      tokenizer: (source) => token("maths", INLINE.exec(source) ?? (open && OPEN_INLINE.exec(source))),
      renderer: ({ raw }) => `<span class="maths">${escape(raw)}</span>`,
    },
  ];
}

/** Maths on lines of its own; within a line it is a word among others. */
function displayIn(source) {
  const match = DISPLAY.exec(source);
  return match && (match[2] !== undefined || match[1].includes("\n")) ? match : null;
}

function token(type, match) {
  return match ? { type, raw: match[0] } : undefined;
}

/** What the search for display maths needs to see; all of a long reply would be searched for each paragraph. */
function paragraphOf(source) {
  const end = source.indexOf("\n\n");
  return end < 0 ? source : source.slice(0, end);
}

function positive(index) {
  return index < 0 ? undefined : index;
}

/** @param {string} text @returns {string} HTML that shows it */
export function escape(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/**
 * Hide maths from marked's search for the ends of emphasis.
 *
 * @param {string} source
 * @returns {string} of the same length
 */
export function withoutMaths(source) {
  return source.replace(INLINE_ANYWHERE, (found) => "x".repeat(found.length));
}
