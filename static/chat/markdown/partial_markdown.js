// Markdown whose end is still coming: what of it can be shown already without changing its looks a moment later.

// A last line of nothing but marks may become anything: a list, a rule, a heading, bold words, a fence, a number.
const MARKS = /(?:^|\n)[ \t]*(?:>[ \t>]*)?(?:[-+*=_~#|]+|\d{1,9}[.)]?|`{1,2}|`{3,}[^`\n]*|~{3,}[^\n]*|\\|!?\[[ xX]?)[ \t]*$/;

const FENCE = /(?:^|\n)[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(`{3,}|~{3,})/g;
const FENCE_END = /\n[ \t>]*(?:`+|~+)[ \t]*$/;

// The head of a table is one only once the line below it is there.
const TABLE_HEAD = /(?:^|\n)[ \t]*\|[^\n]*(?:\n[ \t]*\|?[ \t:|-]*)?$/;
const TABLE_LINE_BEFORE = /\|[^\n]*$/;

const TAG = /<\/?[a-zA-Z][^<>\n]{0,60}$/;
const LINK_TARGET = /!?\[([^[\]\n]*)\]\([^()\s]*(?:\([^()\s]*)?$/;

// Where the words that belong to one paragraph, item or cell begin at the latest.
const PIECE_BEGINS = /\n[ \t>]*(?:\n|(?:[-+*]|\d{1,9}[.)])[ \t])|\|/g;

/**
 * Leave off an end that cannot be told yet.
 *
 * @param {string} source
 * @returns {string} a beginning of `source`
 */
export function tellable(source) {
  if (isInFence(source)) return source.replace(FENCE_END, "");
  const table = TABLE_HEAD.exec(source);
  if (table && !TABLE_LINE_BEFORE.test(source.slice(0, table.index))) return source.slice(0, table.index);
  const unclear = MARKS.exec(source) ?? TAG.exec(source);
  return unclear ? source.slice(0, unclear.index) : source;
}

/**
 * Close what is open at the end of a block: code, bold and other emphasis, the target of a link.
 *
 * @param {string} source
 * @returns {string}
 */
export function closed(source) {
  if (isInFence(source)) return source;
  const begin = lastPiece(source);
  return source.slice(0, begin) + closedPiece(source.slice(begin));
}

/** Whether code that began with a fence has not ended. */
function isInFence(source) {
  let fence = "";
  for (const [, marks] of source.matchAll(FENCE)) {
    if (!fence) fence = marks;
    else if (marks.startsWith(fence)) fence = "";
  }
  return fence !== "" && !/(?:^|\n)[^\n]*(?:`{3,}|~{3,})[^\n]*$/.test(source);
}

function lastPiece(source) {
  let begin = 0;
  for (const match of source.matchAll(PIECE_BEGINS)) begin = match.index + match[0].length;
  return begin;
}

function closedPiece(piece) {
  const code = openCode(piece);
  if (code) return piece.endsWith(code) ? piece.slice(0, -code.length) : piece + code;
  const target = LINK_TARGET.exec(piece);
  return closedEmphasis(target ? piece.slice(0, target.index) + target[1] : piece);
}

/** The backticks of a code span that has begun and not ended. */
function openCode(piece) {
  let open = "";
  for (const [run] of piece.matchAll(/`+/g)) {
    if (!open) open = run;
    else if (open === run) open = "";
  }
  return open;
}

/** Close emphasis in the reverse order of its beginning; marks at the very end begin nothing yet. */
function closedEmphasis(piece) {
  const words = piece.trimEnd();
  const plain = words.replace(/(`+)[^]*?\1|\\[^]|\$[^$\n]*\$|\]\([^)]*\)/g, (span) => "x".repeat(span.length));
  const open = [];
  let halfClosed = "";
  for (const match of plain.matchAll(/\*{1,3}|_{1,3}|~~/g)) {
    const [mark] = match;
    const before = plain[match.index - 1] ?? " ";
    const after = plain[match.index + mark.length] ?? "";
    if (open.at(-1) === mark && !/\s/.test(before)) open.pop();
    else if (!after) halfClosed = open.at(-1)?.startsWith(mark) ? mark : dangling(open, mark);
    else if (begins(mark, before, after)) open.push(mark);
  }
  if (halfClosed === null) return words.replace(/[*_~]+$/, "") + closers(open);
  return words + closers(open).slice(halfClosed.length) + piece.slice(words.length);
}

/** Marks at the end that close nothing: they are about to begin something. */
function dangling(open, mark) {
  return mark === "_" ? "" : null;
}

function begins(mark, before, after) {
  if (/\s/.test(after)) return false;
  return mark[0] !== "_" || !/[\p{L}\p{N}]/u.test(before);
}

function closers(open) {
  return [...open].reverse().join("");
}
