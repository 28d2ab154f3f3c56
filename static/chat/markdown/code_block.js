// A block of code: its language, a button that copies it, and the code, which scrolls by itself.

import { highlight } from "./highlight.js";
import { make } from "../../shared/dom.js";
import { copyText } from "../../shared/polyfills.js";

const COPY = "Copy";
const SHOW_COPIED = 2000;

/**
 * @param {string} text
 * @param {string} [info] what stands behind the fence; its first word is the language
 * @param {boolean} coming whether more of the code is coming
 * @returns {HTMLElement}
 */
export function makeCodeBlock(text, info = "", coming = false) {
  const language = info.trim().split(/\s/)[0].slice(0, 30);
  const code = make("code", "", text.replace(/\n$/, ""));
  const pre = make("pre", "", code);
  pre.dir = "ltr";
  pre.tabIndex = 0;
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  if (language) code.dataset.language = language;
  highlight(code, coming);
  const button = make("button", "copy-code", COPY);
  button.type = "button";
  return make("div", "code-block", make("div", "code-bar", make("span", "code-language", language), button), pre);
}

// One listener for all: blocks of code come and go while a reply is written.
document.addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("button.copy-code") : null;
  if (button) copyCode(button);
});

async function copyCode(button) {
  const copied = await copyText(button.closest(".code-block").querySelector("code").textContent);
  button.textContent = copied ? "Copied" : "Not allowed by the browser";
  setTimeout(() => (button.textContent = COPY), SHOW_COPIED);
}
