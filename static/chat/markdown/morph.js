// Brings nodes on the page to a new state by changing only what differs: selections, places in scrolled boxes and the
// focus stay where they are.

/** @param {Node} shown is made to hold what `wanted` holds @param {Node} wanted is used up */
export function morph(shown, wanted) {
  let at = shown.firstChild;
  for (const node of [...wanted.childNodes]) {
    if (!at) {
      shown.appendChild(node);
      continue;
    }
    const next = at.nextSibling;
    change(at, node);
    at = next;
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function change(shown, wanted) {
  if (shown.nodeType === Node.TEXT_NODE && wanted.nodeType === Node.TEXT_NODE) setText(shown, wanted.data);
  else if (!areAlike(shown, wanted)) shown.replaceWith(wanted);
  else if (shown.localName !== "button") morph(shown, wanted); // a button may just be telling what it did
}

/** @param {Text} node @param {string} text */
function setText(node, text) {
  if (node.data === text) return;
  if (text.startsWith(node.data)) node.appendData(text.slice(node.length));
  else node.data = text;
}

/** Whether two nodes are elements that differ in their children only. */
function areAlike(one, other) {
  if (one.localName !== other.localName || one.nodeType !== Node.ELEMENT_NODE) return false;
  const names = one.getAttributeNames();
  return (
    names.length === other.getAttributeNames().length &&
    names.every((name) => one.getAttribute(name) === other.getAttribute(name))
  );
}
