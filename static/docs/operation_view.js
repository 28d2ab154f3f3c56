// One operation: what it does, a form to try it, and every answer that it can give.

import { kindOf, makeFields } from "./schema_view.js";
import { makeCode, makeProse, withCode } from "./text.js";
import { TryOut } from "./try_form.js";
import { make } from "../shared/dom.js";

/**
 * @typedef {import("./openapi_document.js").ApiDocument} ApiDocument
 * @typedef {import("./openapi_document.js").Operation} Operation
 * @typedef {import("./request.js").KnownValues} KnownValues
 */

export class OperationView {
  #api;
  #operation;

  /** @param {ApiDocument} api @param {Operation} operation @param {KnownValues} known */
  constructor(api, operation, known) {
    this.#api = api;
    this.#operation = operation;
    this.element = /** @type {HTMLDetailsElement} */ (make("details", "operation", this.#makeSummary()));
    this.element.id = operation.id;
    this.element.addEventListener("toggle", () => this.#fill(known), { once: true });
  }

  #makeSummary() {
    const { method, path, summary } = this.#operation;
    const badge = make("span", `method ${method.toLowerCase()}`, method);
    return make("summary", "", make("h3", "", badge, " ", make("code", "path", path), " ", make("span", "title", summary)));
  }

  /** Make the rest when it is first opened. @param {KnownValues} known */
  #fill(known) {
    const { description, responses } = this.#operation;
    const answers = make("section", "answers", make("h4", "", "Answers"));
    for (const [status, response] of responses) answers.append(this.#makeResponse(status, response));
    const tryOut = new TryOut(this.#api, this.#operation, known);
    this.element.append(make("div", "inside", ...makeProse(description), tryOut.element, answers));
  }

  /** @param {string} status @param {import("./openapi_document.js").Json} response */
  #makeResponse(status, { description, headers = {}, content = {} }) {
    const [first, ...rest] = description.split("\n\n");
    const title = make("summary", "", make("code", `status s${status[0]}`, status), " ", make("span", "", ...withCode(first)));
    const view = make("details", "response", title, ...makeProse(rest.join("\n\n")));
    const heads = Object.entries(headers).map(([name, header]) => this.#makeHeader(name, this.#api.resolve(header)));
    if (heads.length) view.append(make("h5", "", "Headers"), make("ul", "fields", ...heads));
    for (const [type, media] of Object.entries(content)) view.append(...this.#makeMedia(type, media));
    return view;
  }

  /** @param {string} name @param {import("./openapi_document.js").Json} header */
  #makeHeader(name, { description, schema }) {
    const kind = make("span", "kind", kindOf(this.#api, schema));
    return make("li", "", make("code", "name", name), " ", kind, make("p", "", ...withCode(description)));
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
