// Tells which HTML in Markdown is shown as HTML, and which as text.

import { ALLOWED_TAGS } from "../allowed_tags.js";

const SAFE_TAG = /<\/?([a-z][a-z0-9]*)(?:\s+(?:(?:align|start|title)="[\w ,.-]*"|href="https?:\/\/[^\s"<>]*"))*\s*\/?>/gi;

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
