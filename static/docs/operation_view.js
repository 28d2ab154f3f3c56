// One operation: its description, a form to try it, and its responses.

import { describeType, makeFields } from "./schema_view.js";
import { makeCode, makeParagraphs, withCode } from "./text.js";
import { TryForm } from "./try_form.js";
import { make } from "../shared/dom.js";

/**
 * @typedef {import("./openapi_document.js").ApiDocument} ApiDocument
 * @typedef {import("./openapi_document.js").Operation} Operation
 * @typedef {import("./request.js").SharedValues} SharedValues
 */

export class OperationView {
  #api;
  #operation;

  /** @param {ApiDocument} api @param {Operation} operation @param {SharedValues} sharedValues */
  constructor(api, operation, sharedValues) {
    this.#api = api;
    this.#operation = operation;
    this.element = /** @type {HTMLDetailsElement} */ (make("details", "operation", this.#makeSummary()));
    this.element.id = operation.id;
    this.element.addEventListener("toggle", () => this.#render(sharedValues), { once: true });
  }

  #makeSummary() {
    const { method, path, summary } = this.#operation;
    const badge = make("span", `method ${method.toLowerCase()}`, method);
    return make("summary", "", make("h3", "", badge, " ", make("code", "path", path), " ", make("span", "title", summary)));
  }

  /** Render the content when the operation is first opened. @param {SharedValues} sharedValues */
  #render(sharedValues) {
    const { description, responses } = this.#operation;
    const responseList = make("section", "responses", make("h4", "", "Responses"));
    for (const [status, response] of responses) responseList.append(this.#makeResponse(status, response));
    const tryForm = new TryForm(this.#api, this.#operation, sharedValues);
    this.element.append(make("div", "operation-body", ...makeParagraphs(description), tryForm.element, responseList));
  }

  /** @param {string} status @param {import("./openapi_document.js").Json} response */
  #makeResponse(status, { description, headers = {}, content = {} }) {
    const [first, ...rest] = description.split("\n\n");
    const title = make("summary", "", make("code", `status s${status[0]}`, status), " ", make("span", "", ...withCode(first)));
    const view = make("details", "response", title, ...makeParagraphs(rest.join("\n\n")));
    const rows = Object.entries(headers).map(([name, header]) => this.#makeHeader(name, this.#api.resolve(header)));
    if (rows.length) view.append(make("h5", "", "Headers"), make("ul", "fields", ...rows));
    for (const [type, media] of Object.entries(content)) view.append(...this.#makeMedia(type, media));
    return view;
  }

  /** @param {string} name @param {import("./openapi_document.js").Json} header */
  #makeHeader(name, { description, schema }) {
    const type = make("span", "type", describeType(this.#api, schema));
    return make("li", "", make("code", "name", name), " ", type, make("p", "", ...withCode(description)));
  }

  /** @param {string} type @param {import("./openapi_document.js").Json} media */
  #makeMedia(type, media) {
    const parts = [make("h5", "", "Body, ", make("code", "", type))];
    const fields = makeFields(this.#api, media.schema);
    if (fields) parts.push(fields);
    for (const [summary, value] of this.#api.examplesOf(media)) {
      const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
      parts.push(make("p", "caption", summary), makeCode(`${summary}, ${type}`, text));
    }
    return parts;
  }
}
