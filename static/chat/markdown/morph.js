// Updates DOM nodes by changing only what differs, so that selection, scroll positions and focus are kept.

/**
 * Make the children of `target` equal to those of `source`.
 *
 * @param {Node} target
 * @param {Node} source loses its children
 * @param {number} [from] number of children of `target` to leave as they are
 * @param {boolean} [isEnd] whether to remove the children of `target` that follow
 */
export function morph(target, source, from = 0, isEnd = true) {
  let current = target.childNodes[from] ?? null;
  for (const node of [...source.childNodes]) {
    if (!current) {
      target.appendChild(node);
      continue;
    }
    const next = current.nextSibling;
    morphNode(current, node);
    current = next;
  }
  while (current && isEnd) {
    const next = current.nextSibling;
    current.remove();
    current = next;
  }
}

function morphNode(target, source) {
  if (target.nodeType === Node.TEXT_NODE && source.nodeType === Node.TEXT_NODE) setText(target, source.data);
  else if (!haveSameTag(target, source)) target.replaceWith(source);
  else if (target.localName !== "button") morph(target, source); // a button may show feedback in place of its label
}

/** @param {Text} node @param {string} text */
function setText(node, text) {
  if (node.data === text) return;
  if (text.startsWith(node.data)) node.appendData(text.slice(node.length));
  else node.data = text;
}

/** Whether two nodes are elements with the same tag and attributes. */
export function haveSameTag(one, other) {
  if (one.localName !== other.localName || one.nodeType !== Node.ELEMENT_NODE) return false;
  const names = one.getAttributeNames();
  return (
    names.length === other.getAttributeNames().length &&
    names.every((name) => one.getAttribute(name) === other.getAttribute(name))
  );
}
