// A code block: its language, a copy button, and the highlighted code, which scrolls horizontally.

import { make } from "../../shared/dom.js";
import { copyText } from "../../shared/polyfills.js";

const COPY = "Copy";
const FEEDBACK_DURATION = 2000; // milliseconds

/**
 * @param {DocumentFragment} content text and highlighted spans
 * @param {string} language empty: unknown
 * @returns {HTMLElement}
 */
export function makeCodeBlock(content, language) {
  const code = make("code", "", content);
  const pre = make("pre", "", code);
  pre.dir = "ltr";
  pre.tabIndex = 0;
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  if (language) code.dataset.language = language;
  const button = make("button", "copy-code", COPY);
  button.type = "button";
  return make("div", "code-block", make("div", "code-bar", make("span", "code-language", language), button), pre);
}

// Delegated: code blocks are created and replaced while a reply is streamed.
document.addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("button.copy-code") : null;
  if (button) copyCode(button);
});

async function copyCode(button) {
  const copied = await copyText(button.closest(".code-block").querySelector("code").textContent);
  button.textContent = copied ? "Copied" : "Copying is blocked by the browser";
  setTimeout(() => (button.textContent = COPY), FEEDBACK_DURATION);
}
