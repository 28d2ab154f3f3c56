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
