// Helpers that create DOM elements. Strings become text nodes, never HTML.

/**
 * @param {string} tag
 * @param {string} className
 * @param {...(Node | string)} children
 */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** @param {string} label @param {() => void} onClick */
export function makeButton(label, onClick) {
  const button = /** @type {HTMLButtonElement} */ (make("button", "button", label));
  button.type = "button";
  button.addEventListener("click", onClick);
  return button;
}

/** An error message that screen readers announce. @param {string} message @param {...Node} actions */
export function makeAlert(message, ...actions) {
  const alert = make("div", "alert", make("p", "", message), ...actions);
  alert.setAttribute("role", "alert");
  return alert;
}

/** An informational message. @param {string} message @param {...Node} actions */
export function makeNotice(message, ...actions) {
  return make("div", "notice", make("p", "", message), ...actions);
}

/** A button that shows an SVG icon of 20 by 20. @param {string} label @param {string} path the SVG path data */
export function makeIconButton(label, path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  const button = /** @type {HTMLButtonElement} */ (make("button", "icon-button", svg));
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  return button;
}
