// Reads the OpenAPI document: resolves references and groups operations by tag.

/**
 * @typedef {Object<string, any>} Json
 *
 * @typedef {object} Operation
 * @property {string} id
 * @property {string} method in upper case
 * @property {string} path
 * @property {string} summary
 * @property {string} description
 * @property {Json[]} parameters
 * @property {Json | null} body schema and examples of its media type
 * @property {Array<[string, Json]>} responses by status
 *
 * @typedef {{name: string, description: string, operations: Operation[]}} Group
 */

const METHODS = ["get", "head", "post", "put", "patch", "delete"];

export class ApiDocument {
  #json;

  /** @param {Json} json */
  constructor(json) {
    this.#json = json;
    this.summary = json.info.summary;
    this.description = json.info.description;
    /** @type {Group[]} */
    this.groups = json.tags.map((tag) => ({ ...tag, operations: this.#withTag(tag.name) }));
  }

  /** Resolve a reference; other values are returned unchanged. @param {any} value */
  resolve(value) {
    while (value?.$ref) {
      value = value.$ref.slice(2).split("/").reduce((found, name) => found[name], this.#json);
    }
    return value;
  }

  /** The name of the referenced component. @param {any} value @returns {string} */
  nameOf(value) {
    return value?.$ref?.split("/").at(-1) ?? "";
  }

  /** The examples of a media type: summary and value. @param {Json} value @returns {Array<[string, any]>} */
  examplesOf(value) {
    if ("example" in value) return [["Example", value.example]];
    return Object.values(value.examples ?? {}).map((one) => [one.summary, one.value]);
  }

  /** @param {string} tag @returns {Operation[]} */
  #withTag(tag) {
    return Object.entries(this.#json.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]?.tags.includes(tag)).map((method) => this.#read(path, item, method)));
  }

  /** @param {string} path @param {Json} item @param {string} method @returns {Operation} */
  #read(path, item, method) {
    const { operationId, summary, description, parameters = [], requestBody, responses } = item[method];
    return {
      id: operationId,
      method: method.toUpperCase(),
      path,
      summary,
      description,
      parameters: [...(item.parameters ?? []), ...parameters].map((one) => this.resolve(one)).sort(requiredFirst),
      body: requestBody ? requestBody.content["application/json"] : null,
      responses: Object.entries(responses).map(([status, response]) => [status, this.resolve(response)]),
    };
  }
}

/** @param {Json} one @param {Json} other */
function requiredFirst(one, other) {
  return Number(other.required ?? false) - Number(one.required ?? false) || weight(one) - weight(other);
}

/** Sort X-Request-ID last: it is rarely needed. @param {Json} parameter */
function weight({ name }) {
  return Number(name === "X-Request-ID");
}
