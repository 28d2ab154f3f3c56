// Sanitizes the HTML in replies with DOMPurify and an allowlist of tags and attributes.

import { ALLOWED_TAGS } from "./allowed_tags.js";
import DOMPurify from "../../vendor/dompurify.js";

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
