// Builds the nodes of highlighted code: only text, and spans with classes of the highlighter.

const TOKEN = /<span class="(hljs-[\w -]{1,60})">|<\/span>|[^<]+|</g;
const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'" };

/**
 * DOMPurify would accept the same HTML, but takes ten times as long, and typing waits for it.
 *
 * @param {string} html as highlight.js writes it: text with its five entities, and `span` elements with a class
 * @returns {DocumentFragment}
 */
export function makeHighlighted(html) {
  const fragment = document.createDocumentFragment();
  const open = [fragment];
  for (const [token, className] of html.matchAll(TOKEN)) {
    if (className) {
      const span = document.createElement("span");
      span.className = className;
      open.at(-1).append(span);
      open.push(span);
    } else if (token === "</span>") {
      if (open.length > 1) open.pop();
    } else open.at(-1).append(token.replace(/&(?:amp|lt|gt|quot|#x27);/g, (entity) => ENTITIES[entity]));
  }
  return fragment;
}
