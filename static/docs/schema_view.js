// Renders a JSON schema: type, limits and fields.

import { withCode } from "./text.js";
import { make } from "../shared/dom.js";

/** @typedef {import("./openapi_document.js").ApiDocument} ApiDocument */

/** Describe a type in a few words. @param {ApiDocument} api @param {any} reference @returns {string} */
export function describeType(api, reference) {
  const schema = api.resolve(reference);
  if (schema === true) return "any";
  if (schema.const !== undefined) return `always ${schema.const}`;
  if (schema.enum) return schema.enum.join(" or ");
  if (schema.type === "array") return `array of ${schema.items ? describeType(api, schema.items) : "any"}`;
  if (!schema.type && schema.anyOf) return schema.anyOf.map((one) => describeType(api, one)).join(" or ");
  return [[schema.type ?? "any"].flat().join(" or "), schema.format, describeLimits(schema)].filter(Boolean).join(", ");
}

/** @param {any} schema @returns {string} */
function describeLimits({ minLength, maxLength, minimum, maximum, default: defaultValue }) {
  const parts = [];
  if (maxLength !== undefined) parts.push(`${minLength ?? 0} to ${maxLength} characters`);
  else if (minLength) parts.push("not empty");
  if (minimum !== undefined && (maximum === undefined || maximum > 1e15)) parts.push(`${minimum} or more`);
  else if (minimum !== undefined) parts.push(`${minimum} to ${maximum}`);
  if (defaultValue !== undefined) parts.push(`default ${defaultValue}`);
  return parts.join(", ");
}

/** List the fields of an object or an array of objects, nested; null if there are none. @param {ApiDocument} api @param {any} reference */
export function makeFields(api, reference) {
  const schema = api.resolve(reference);
  if (schema.items) return makeFields(api, schema.items);
  const alternative = schema.anyOf?.map((one) => api.resolve(one)).find((one) => one.properties);
  const { properties, required = [] } = schema.properties ? schema : alternative ?? {};
  if (!properties) return null;
  const list = make("ul", "fields");
  for (const [name, field] of Object.entries(properties)) {
    list.append(makeField(api, name, field, required.includes(name)));
  }
  return list;
}

/** @param {ApiDocument} api @param {string} name @param {any} field @param {boolean} required */
function makeField(api, name, field, required) {
  const item = make("li", "", make("code", "name", name), " ", make("span", "type", describeType(api, field)));
  if (required) item.append(" ", make("span", "required", "required"));
  const { description } = api.resolve(field);
  if (description) item.append(make("p", "", ...withCode(description)));
  const inner = makeFields(api, field) ?? makeContent(api, api.resolve(field));
  if (inner) item.append(inner);
  return item;
}

/** List the schemas of a string that contains JSON. @param {ApiDocument} api @param {any} schema */
function makeContent(api, { contentSchema }) {
  const schemas = [contentSchema?.anyOf ?? []].flat().filter((one) => api.nameOf(one));
  if (!schemas.length) return null;
  return make("ul", "fields", ...schemas.map((one) => makeNamed(api, one)));
}

/** @param {ApiDocument} api @param {any} reference */
function makeNamed(api, reference) {
  const { description = "" } = api.resolve(reference);
  const item = make("li", "", make("code", "name", api.nameOf(reference)), make("p", "", ...withCode(description)));
  const fields = makeFields(api, reference);
  if (fields) item.append(fields);
  return item;
}
