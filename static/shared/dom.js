// Making elements in one line; text only ever becomes text.

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
  const button = /** @type {HTMLButtonElement} */ (make("button", "quiet", label));
  button.type = "button";
  button.addEventListener("click", onClick);
  return button;
}

/** An error in words. @param {string} sentence @param {...Node} actions */
export function makeAlert(sentence, ...actions) {
  const alert = make("div", "alert", make("p", "", sentence), ...actions);
  alert.setAttribute("role", "alert");
  return alert;
}

/** A sentence below the messages. @param {string} sentence @param {...Node} actions */
export function makeNotice(sentence, ...actions) {
  return make("div", "notice", make("p", "", sentence), ...actions);
}

/** A button with a drawing of 20 by 20 for a face. @param {string} label @param {string} path as in SVG */
export function makeIconButton(label, path) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("viewBox", "0 0 20 20");
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  drawing.append(line);
  const button = /** @type {HTMLButtonElement} */ (make("button", "icon", drawing));
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  return button;
}
