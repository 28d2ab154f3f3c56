// Updates DOM nodes by changing only what differs, so that selection, scroll positions and focus are kept.

/** Make the children of `target` equal to those of `source`. @param {Node} target @param {Node} source loses its children */
export function morph(target, source) {
  let current = target.firstChild;
  for (const node of [...source.childNodes]) {
    if (!current) {
      target.appendChild(node);
      continue;
    }
    const next = current.nextSibling;
    morphNode(current, node);
    current = next;
  }
  while (current) {
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
function haveSameTag(one, other) {
  if (one.localName !== other.localName || one.nodeType !== Node.ELEMENT_NODE) return false;
  const names = one.getAttributeNames();
  return (
    names.length === other.getAttributeNames().length &&
    names.every((name) => one.getAttribute(name) === other.getAttribute(name))
  );
}
