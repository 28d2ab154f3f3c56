// The form to try an operation: its parameters, its body, and the response.

import { toCurl, send } from "./request.js";
import { ResponseView } from "./response_view.js";
import { describeType, makeFields } from "./schema_view.js";
import { withCode } from "./text.js";
import { make, makeButton } from "../shared/dom.js";

/**
 * @typedef {import("./openapi_document.js").ApiDocument} ApiDocument
 * @typedef {import("./openapi_document.js").Operation} Operation
 * @typedef {import("./request.js").SharedValues} SharedValues
 */

export class TryForm {
  #api;
  #operation;
  #sharedValues;
  /** @type {Array<[import("./openapi_document.js").Json, HTMLInputElement | HTMLSelectElement]>} */
  #fields = [];
  /** @type {HTMLTextAreaElement | null} */
  #body = null;
  /** @type {any} the example shown in the body, and its initial text */
  #example = null;
  #exampleText = "";
  #result = make("div", "result");
  /** @type {AbortController | null} */
  #controller = null;

  /** @param {ApiDocument} api @param {Operation} operation @param {SharedValues} sharedValues */
  constructor(api, operation, sharedValues) {
    this.#api = api;
    this.#operation = operation;
    this.#sharedValues = sharedValues;
    this.element = /** @type {HTMLFormElement} */ (make("form", "try-form", make("h4", "", "Try it")));
    this.element.setAttribute("aria-label", `Try ${operation.method} ${operation.path}`);
    for (const parameter of operation.parameters) this.element.append(this.#makeParameter(parameter));
    if (operation.body) this.element.append(...this.#makeBody(operation.body));
    const submit = /** @type {HTMLButtonElement} */ (make("button", "primary", "Send"));
    this.element.append(submit, this.#result);
    this.element.addEventListener("submit", (event) => this.#submit(event));
    sharedValues.addEventListener("change", () => this.#applySharedValues());
    this.#applySharedValues();
  }

  /** @param {import("./openapi_document.js").Json} parameter */
  #makeParameter(parameter) {
    const { name, in: place, required = false, description, schema } = parameter;
    const field = schema.enum ? makeSelect(schema.enum) : makeInput(parameter);
    field.name = name;
    field.required = required;
    field.id = `${this.#operation.id}-${place}-${name}`;
    this.#fields.push([parameter, field]);
    const label = /** @type {HTMLLabelElement} */ (make("label", "", make("code", "name", name)));
    label.htmlFor = field.id;
    const type = make("span", "type", `${place}, ${describeType(this.#api, schema)}`);
    const note = make("p", "", ...withCode(description));
    note.id = `${field.id}-note`;
    field.setAttribute("aria-describedby", note.id);
    const title = make("div", "", label, " ", type);
    if (required) title.append(" ", make("span", "required", "required"));
    return make("div", "parameter", title, field, note);
  }

  /** @param {import("./openapi_document.js").Json} media */
  #makeBody(media) {
    const examples = this.#api.examplesOf(media);
    const textarea = (this.#body = /** @type {HTMLTextAreaElement} */ (make("textarea", "")));
    textarea.id = `${this.#operation.id}-body`;
    textarea.spellcheck = false;
    this.#showExample(examples[0][1]);
    textarea.rows = textarea.value.split("\n").length + 1;
    const label = /** @type {HTMLLabelElement} */ (make("label", "", "Body ", make("span", "type", "application/json")));
    label.htmlFor = textarea.id;
    const buttons = examples.length < 2 ? [] : examples.map(([summary, value]) =>
      makeButton(summary, () => this.#showExample(value)));
    const fields = make("details", "collapsible", make("summary", "", "Body fields"), makeFields(this.#api, media.schema));
    return [make("div", "parameter body", label, make("div", "examples", ...buttons), textarea, fields)];
  }

  /** Show an example in the body, with an installed model. @param {any} example */
  #showExample(example) {
    const model = this.#sharedValues.get("model");
    this.#example = example;
    this.#exampleText = JSON.stringify(model === undefined || !("model" in example) ? example : { ...example, model }, null, 2);
    this.#body.value = this.#exampleText;
  }

  /** Fill in the shared values, except in fields that the user has edited. */
  #applySharedValues() {
    for (const [{ name, in: place }, field] of this.#fields) {
      if (place === "path") field.value = this.#sharedValues.get(name) ?? field.value;
    }
    if (this.#body && this.#body.value === this.#exampleText) this.#showExample(this.#example);
  }

  /** @param {SubmitEvent} event */
  async #submit(event) {
    event.preventDefault();
    this.#controller?.abort();
    const controller = (this.#controller = new AbortController());
    const request = this.#request();
    const view = new ResponseView(toCurl(request, location.origin), this.#sharedValues, () => controller.abort());
    this.#result.replaceChildren(view.element);
    try {
      await view.show(await send(request, controller.signal));
    } catch {
      view.showFailure(controller.signal.aborted);
    }
  }

  #request() {
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
function makeSelect(values) {
  const select = /** @type {HTMLSelectElement} */ (make("select", ""));
  for (const value of ["", ...values]) select.append(new Option(value || "not set", value));
  return select;
}
