// What HTML a reply may hold. DOMPurify lets it through; everything else stays outside the page.

import DOMPurify from "../../vendor/dompurify.js";

const TAGS = new Set(
  (
    "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i ins kbd li mark ol p pre s small span strong sub sup " +
    "table tbody td th thead tr u ul"
  ).split(" "),
);
const TAG = /<\/?([a-z][a-z0-9]*)(?:\s+(?:(?:align|start|title)="[\w ,.-]*"|href="https?:\/\/[^\s"<>]*"))*\s*\/?>/gi;
const CLASS = /^(?:maths|language-[\w.+#-]{1,30}|hljs-[\w -]{1,60})$/;

const purify = DOMPurify(window);
purify.setConfig({
  ALLOWED_TAGS: [...TAGS, "#text"],
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ADD_URI_SAFE_ATTR: ["align", "start"], // all other values must look like the following
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
});
purify.addHook("uponSanitizeAttribute", (_node, attribute) => {
  if (attribute.attrName === "class") attribute.keepAttr = CLASS.test(attribute.attrValue);
});
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.localName !== "a") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

/** @param {string} html @returns {DocumentFragment} what of it is allowed */
export function allowedHTML(html) {
  return purify.sanitize(html);
}

/**
 * Whether a piece of HTML is nothing but text, allowed tags and harmless attributes. All other is shown as the text
 * that it is, and not even parsed: the browser would report each handler in it as a breach of the page's policy.
 *
 * @param {string} html
 */
export function isHarmless(html) {
  const rest = html.replace(TAG, (tag, name) => (TAGS.has(name.toLowerCase()) ? "" : tag));
  return !rest.includes("<");
}
