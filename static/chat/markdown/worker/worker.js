// The worker that parses Markdown and highlights code, so that no text blocks the page: the page stops a worker that
// takes too long.

import { configureHighlighting } from "./highlight.js";
import { MarkdownDocument } from "./markdown_document.js";

/**
 * @typedef {object} Job a request of the page
 * @property {number} id of the document; one that is not known here begins
 * @property {string} text appended, without carriage returns
 * @property {boolean} isComplete whether no more text will follow
 * @property {boolean} isHighlighted whether code is highlighted
 */

/**
 * @typedef {object} Answer
 * @property {import("./rendered_parts.js").Part[]} parts new or changed
 * @property {number} completed number of blocks that are complete
 * @property {number} completedLength number of characters in complete blocks
 * @property {boolean} hasMore whether text waits to be parsed
 * @property {boolean} isPlain whether a limit was exceeded: the text after the complete blocks is shown as plain text
 * @property {number} duration milliseconds
 */

/** @type {Map<number, MarkdownDocument>} */
const documents = new Map();

addEventListener("message", async ({ data: job }) => {
  const startedAt = performance.now();
  configureHighlighting(job.isHighlighted, (isHighlighting) => postMessage({ isHighlighting }));
  const document = documents.get(job.id) ?? new MarkdownDocument();
  documents.set(job.id, document);
  document.append(job.text);
  const answer = await advance(document, job.isComplete);
  if (answer.isPlain || (job.isComplete && !answer.hasMore)) documents.delete(job.id);
  postMessage({ answer: { ...answer, duration: performance.now() - startedAt } });
});

/** @param {MarkdownDocument} document @param {boolean} isComplete */
async function advance(document, isComplete) {
  try {
    return { ...(await document.advance(isComplete)), isPlain: false };
  } catch {
    // A limit is exceeded, or the nesting exhausts the stack (the error's class depends on the browser).
    return { ...document.takeRendered(), hasMore: false, isPlain: true };
  }
}

postMessage({ isReady: true });
