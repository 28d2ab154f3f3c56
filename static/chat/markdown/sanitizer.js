// Sanitizes the HTML in replies with DOMPurify and an allowlist of tags and attributes.

import DOMPurify from "../../vendor/dompurify.js";

const ALLOWED_TAGS = new Set(
  (
    "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i ins kbd li mark ol p pre s small span strong sub sup " +
    "table tbody td th thead tr u ul"
  ).split(" "),
);
const SAFE_TAG = /<\/?([a-z][a-z0-9]*)(?:\s+(?:(?:align|start|title)="[\w ,.-]*"|href="https?:\/\/[^\s"<>]*"))*\s*\/?>/gi;
const ALLOWED_CLASS = /^(?:math|language-[\w.+#-]{1,30}|hljs-[\w -]{1,60})$/;

const purify = DOMPurify(window);
purify.setConfig({
  ALLOWED_TAGS: [...ALLOWED_TAGS, "#text"],
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ADD_URI_SAFE_ATTR: ["align", "start"], // the values of all other attributes must match the following
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
});
purify.addHook("uponSanitizeAttribute", (_node, attribute) => {
  if (attribute.attrName === "class") attribute.keepAttr = ALLOWED_CLASS.test(attribute.attrValue);
});
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.localName !== "a") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

/** @param {string} html @returns {DocumentFragment} */
export function sanitize(html) {
  return purify.sanitize(html);
}

/**
 * Whether HTML contains only text, allowed tags and safe attributes. Other HTML is shown as text and never parsed: the
 * browser would report each inline event handler as a violation of the page's Content-Security-Policy.
 *
 * @param {string} html
 */
export function isSafe(html) {
  const rest = html.replace(SAFE_TAG, (tag, name) => (ALLOWED_TAGS.has(name.toLowerCase()) ? "" : tag));
  return !rest.includes("<");
}
