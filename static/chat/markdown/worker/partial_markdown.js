// Partial Markdown while a reply is streamed: removes an ambiguous end and closes open markup, to avoid flicker.

// A last line of only markup characters is ambiguous: a list, a rule, a heading, emphasis, a fence or a number.
const AMBIGUOUS_END = /(?:^|\n)[ \t]*(?:>[ \t>]*)?(?:[-+*=_~#|]+|\d{1,9}[.)]?|`{1,2}|`{3,}[^`\n]*|~{3,}[^\n]*|\\|!?\[[ xX]?)[ \t]*$/;

const FENCE = /(?:^|\n)[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(`{3,}|~{3,})/g;
const FENCE_END = /\n[ \t>]*(?:`+|~+)[ \t]*$/;

// A table header is recognized only with its delimiter row.
const TABLE_HEADER = /(?:^|\n)[ \t]*\|[^\n]*(?:\n[ \t]*\|?[ \t:|-]*)?$/;
const PREVIOUS_TABLE_ROW = /\|[^\n]*$/;

const TAG = /<\/?[a-zA-Z][^<>\n]{0,60}$/;
const LINK_TARGET = /!?\[([^[\]\n]*)\]\([^()\s]*(?:\([^()\s]*)?$/;

// The start of a paragraph, list item or table cell.
const SEGMENT_START = /\n[ \t>]*(?:\n|(?:[-+*]|\d{1,9}[.)])[ \t])|\|/g;

/**
 * Remove an ambiguous end.
 *
 * @param {string} source
 * @returns {string} a prefix of `source`
 */
export function trimAmbiguousEnd(source) {
  if (isInFence(source)) return source.replace(FENCE_END, "");
  const table = TABLE_HEADER.exec(source);
  if (table && !PREVIOUS_TABLE_ROW.test(source.slice(0, table.index))) return source.slice(0, table.index);
  const end = AMBIGUOUS_END.exec(source) ?? TAG.exec(source);
  return end ? source.slice(0, end.index) : source;
}

/**
 * Close open markup at the end of a block: code spans, emphasis, link targets.
 *
 * @param {string} source
 * @returns {string}
 */
export function closeMarkup(source) {
  if (isInFence(source)) return source;
  const start = lastSegmentStart(source);
  return source.slice(0, start) + closeSegment(source.slice(start));
}

/** Whether the source ends inside a fenced code block. */
function isInFence(source) {
  let fence = "";
  for (const [, marks] of source.matchAll(FENCE)) {
    if (!fence) fence = marks;
    else if (marks.startsWith(fence)) fence = "";
  }
  return fence !== "" && !/(?:^|\n)[^\n]*(?:`{3,}|~{3,})[^\n]*$/.test(source);
}

function lastSegmentStart(source) {
  let start = 0;
  for (const match of source.matchAll(SEGMENT_START)) start = match.index + match[0].length;
  return start;
}

function closeSegment(segment) {
  const code = openCodeSpan(segment);
  if (code) return segment.endsWith(code) ? segment.slice(0, -code.length) : segment + code;
  const target = LINK_TARGET.exec(segment);
  return closeEmphasis(target ? segment.slice(0, target.index) + target[1] : segment);
}

/** The backticks of an open code span. */
function openCodeSpan(segment) {
  let open = "";
  for (const [run] of segment.matchAll(/`+/g)) {
    if (!open) open = run;
    else if (open === run) open = "";
  }
  return open;
}

/** Close emphasis in reverse order. Delimiters at the very end do not open emphasis yet. */
function closeEmphasis(segment) {
  const text = segment.trimEnd();
  const plain = text.replace(/(`+)[^]*?\1|\\[^]|\$[^$\n]*\$|\]\([^)]*\)/g, (span) => "x".repeat(span.length));
  const open = [];
  let halfClosed = "";
  for (const match of plain.matchAll(/\*{1,3}|_{1,3}|~~/g)) {
    const [mark] = match;
    const before = plain[match.index - 1] ?? " ";
    const after = plain[match.index + mark.length] ?? "";
    if (open.at(-1) === mark && !/\s/.test(before)) open.pop();
    else if (!after) halfClosed = open.at(-1)?.startsWith(mark) ? mark : trailingDelimiter(mark);
    else if (opensEmphasis(mark, before, after)) open.push(mark);
  }
  if (halfClosed === null) return text.replace(/[*_~]+$/, "") + closingDelimiters(open);
  return text + closingDelimiters(open).slice(halfClosed.length) + segment.slice(text.length);
}

/** Handle a delimiter at the end that closes nothing: null removes it, as it is about to open emphasis. */
function trailingDelimiter(mark) {
  return mark === "_" ? "" : null;
}

function opensEmphasis(mark, before, after) {
  if (/\s/.test(after)) return false;
  return mark[0] !== "_" || !/[\p{L}\p{N}]/u.test(before);
}

function closingDelimiters(open) {
  return [...open].reverse().join("");
}
