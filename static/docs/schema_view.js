// A JSON schema in words: what kind of value, within which limits, with which fields.

import { withCode } from "./text.js";
import { make } from "../shared/dom.js";

/** @typedef {import("./openapi_document.js").ApiDocument} ApiDocument */

/** A value's kind in a few words. @param {ApiDocument} api @param {any} given @returns {string} */
export function kindOf(api, given) {
  const schema = api.resolve(given);
  if (schema === true) return "anything";
  if (schema.const !== undefined) return `always ${schema.const}`;
  if (schema.enum) return schema.enum.join(" or ");
  if (schema.type === "array") return `list of ${schema.items ? kindOf(api, schema.items) : "anything"}`;
  if (!schema.type && schema.anyOf) return schema.anyOf.map((one) => kindOf(api, one)).join(" or ");
  return [[schema.type ?? "anything"].flat().join(" or "), schema.format, limitsOf(schema)].filter(Boolean).join(", ");
}

/** @param {any} schema @returns {string} */
function limitsOf({ minLength, maxLength, minimum, maximum, default: usual }) {
  const parts = [];
  if (maxLength !== undefined) parts.push(`${minLength ?? 0} to ${maxLength} characters`);
  else if (minLength) parts.push("not empty");
  if (minimum !== undefined && (maximum === undefined || maximum > 1e15)) parts.push(`${minimum} or more`);
  else if (minimum !== undefined) parts.push(`${minimum} to ${maximum}`);
  if (usual !== undefined) parts.push(`${usual} if left out`);
  return parts.join(", ");
}

/** The fields of an object or of a list of objects, nested; null if there are none. @param {ApiDocument} api @param {any} given */
export function makeFields(api, given) {
  const schema = api.resolve(given);
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
  const item = make("li", "", make("code", "name", name), " ", make("span", "kind", kindOf(api, field)));
  if (required) item.append(" ", make("span", "required", "required"));
  const { description } = api.resolve(field);
  if (description) item.append(make("p", "", ...withCode(description)));
  const inner = makeFields(api, field) ?? makeContent(api, api.resolve(field));
  if (inner) item.append(inner);
  return item;
}

/** What a text holds that is JSON itself. @param {ApiDocument} api @param {any} schema */
function makeContent(api, { contentSchema }) {
  const kinds = [contentSchema?.anyOf ?? []].flat().filter((one) => api.nameOf(one));
  if (!kinds.length) return null;
  return make("ul", "fields", ...kinds.map((one) => makeNamed(api, one)));
}

/** @param {ApiDocument} api @param {any} reference */
function makeNamed(api, reference) {
  const { description = "" } = api.resolve(reference);
  const item = make("li", "", make("code", "name", api.nameOf(reference)), make("p", "", ...withCode(description)));
  const fields = makeFields(api, reference);
  if (fields) item.append(fields);
  return item;
}
