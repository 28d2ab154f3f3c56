// The form of an operation: its parameters, its body, and what came of sending them.

import { asCurl, send } from "./request.js";
import { AnswerView } from "./response_view.js";
import { kindOf, makeFields } from "./schema_view.js";
import { withCode } from "./text.js";
import { make, makeButton } from "../shared/dom.js";

/**
 * @typedef {import("./openapi_document.js").ApiDocument} ApiDocument
 * @typedef {import("./openapi_document.js").Operation} Operation
 * @typedef {import("./request.js").KnownValues} KnownValues
 */

export class TryOut {
  #api;
  #operation;
  #known;
  /** @type {Array<[import("./openapi_document.js").Json, HTMLInputElement | HTMLSelectElement]>} */
  #fields = [];
  /** @type {HTMLTextAreaElement | null} */
  #body = null;
  /** @type {any} the example that the body was made from, and what it looked like then */
  #example = null;
  #exampleText = "";
  #result = make("div", "result");
  /** @type {AbortController | null} */
  #sending = null;

  /** @param {ApiDocument} api @param {Operation} operation @param {KnownValues} known */
  constructor(api, operation, known) {
    this.#api = api;
    this.#operation = operation;
    this.#known = known;
    this.element = /** @type {HTMLFormElement} */ (make("form", "try", make("h4", "", "Try it")));
    this.element.setAttribute("aria-label", `Try ${operation.method} ${operation.path}`);
    for (const parameter of operation.parameters) this.element.append(this.#makeParameter(parameter));
    if (operation.body) this.element.append(...this.#makeBody(operation.body));
    const submit = /** @type {HTMLButtonElement} */ (make("button", "primary", "Send"));
    this.element.append(submit, this.#result);
    this.element.addEventListener("submit", (event) => this.#submit(event));
    known.addEventListener("change", () => this.#fillIn());
    this.#fillIn();
  }

  /** @param {import("./openapi_document.js").Json} parameter */
  #makeParameter(parameter) {
    const { name, in: place, required = false, description, schema } = parameter;
    const field = schema.enum ? makeChoice(schema.enum) : makeInput(parameter);
    field.name = name;
    field.required = required;
    field.id = `${this.#operation.id}-${place}-${name}`;
    this.#fields.push([parameter, field]);
    const label = /** @type {HTMLLabelElement} */ (make("label", "", make("code", "name", name)));
    label.htmlFor = field.id;
    const kind = make("span", "kind", `${place}, ${kindOf(this.#api, schema)}`);
    const note = make("p", "", ...withCode(description));
    note.id = `${field.id}-note`;
    field.setAttribute("aria-describedby", note.id);
    const title = make("div", "", label, " ", kind);
    if (required) title.append(" ", make("span", "required", "required"));
    return make("div", "parameter", title, field, note);
  }

  /** @param {import("./openapi_document.js").Json} media */
  #makeBody(media) {
    const examples = this.#api.examplesOf(media);
    const box = (this.#body = /** @type {HTMLTextAreaElement} */ (make("textarea", "")));
    box.id = `${this.#operation.id}-body`;
    box.spellcheck = false;
    this.#showExample(examples[0][1]);
    box.rows = box.value.split("\n").length + 1;
    const label = /** @type {HTMLLabelElement} */ (make("label", "", "Body ", make("span", "kind", "application/json")));
    label.htmlFor = box.id;
    const choices = examples.length < 2 ? [] : examples.map(([summary, value]) =>
      makeButton(summary, () => this.#showExample(value)));
    const fields = make("details", "shape", make("summary", "", "Fields of the body"), makeFields(this.#api, media.schema));
    return [make("div", "parameter body", label, make("div", "choices", ...choices), box, fields)];
  }

  /** Put an example into the body's box, with a model that is there. @param {any} example */
  #showExample(example) {
    const model = this.#known.get("model");
    this.#example = example;
    this.#exampleText = JSON.stringify(model === undefined || !("model" in example) ? example : { ...example, model }, null, 2);
    this.#body.value = this.#exampleText;
  }

  /** Take over what has become known since, where nobody has written anything else. */
  #fillIn() {
    for (const [{ name, in: place }, field] of this.#fields) {
      if (place === "path") field.value = this.#known.get(name) ?? field.value;
    }
    if (this.#body && this.#body.value === this.#exampleText) this.#showExample(this.#example);
  }

  /** @param {SubmitEvent} event */
  async #submit(event) {
    event.preventDefault();
    this.#sending?.abort();
    const sending = (this.#sending = new AbortController());
    const filled = this.#filled();
    const answer = new AnswerView(asCurl(filled, location.origin), this.#known, () => sending.abort());
    this.#result.replaceChildren(answer.element);
    try {
      await answer.show(await send(filled, sending.signal));
    } catch {
      answer.fail(sending.signal.aborted);
    }
  }

  #filled() {
    const values = this.#fields
      .map(([{ name, in: place }, field]) => ({ name, in: place, value: field.value }))
      .filter(({ value }) => value !== "");
    const { method, path } = this.#operation;
    return { method, path, values, body: this.#body ? this.#body.value : null };
  }
}

/** @param {import("./openapi_document.js").Json} parameter @returns {HTMLInputElement} */
function makeInput({ required, schema, example }) {
  const input = /** @type {HTMLInputElement} */ (make("input", ""));
  input.autocomplete = "off";
  input.spellcheck = false;
  if (schema.type === "integer") input.inputMode = "numeric";
  if (required && example !== undefined) input.value = example;
  else if (example !== undefined) input.placeholder = example;
  return input;
}

/** @param {string[]} values @returns {HTMLSelectElement} */
function makeChoice(values) {
  const select = /** @type {HTMLSelectElement} */ (make("select", ""));
  for (const value of ["", ...values]) select.append(new Option(value || "not sent", value));
  return select;
}
