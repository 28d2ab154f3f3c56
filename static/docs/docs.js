// The API page: fetches openapi.json and shows every operation of it, the one that the address names opened.

import { ApiDocument } from "./openapi_document.js";
import { OperationView } from "./operation_view.js";
import { KnownValues } from "./request.js";
import { makeProse } from "./text.js";
import { make, makeAlert } from "../shared/dom.js";

const SOURCE = "/static/openapi.json";

const about = document.getElementById("about");
const contents = document.getElementById("contents");
const operations = document.getElementById("operations");

const known = new KnownValues();

try {
  show(new ApiDocument(await (await fetch(SOURCE)).json()));
} catch {
  operations.append(makeAlert("The server does not answer. Check that chatterd is running, then reload this page."));
}
await findModel();

/** @param {ApiDocument} api */
function show(api) {
  const source = /** @type {HTMLAnchorElement} */ (make("a", "quiet", "openapi.json"));
  source.href = SOURCE;
  about.append(make("h2", "", api.summary), ...makeProse(api.description), make("p", "", source));
  for (const group of api.groups) showGroup(api, group);
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  open(location.hash.slice(1));
}

/** @param {ApiDocument} api @param {import("./openapi_document.js").Group} group */
function showGroup(api, { name, description, operations: own }) {
  const section = make("section", "group", make("h2", "", name), ...makeProse(description));
  const list = make("ul", "");
  for (const operation of own) {
    section.append(new OperationView(api, operation, known).element);
    const link = /** @type {HTMLAnchorElement} */ (make("a", "", operation.summary));
    link.href = `#${operation.id}`;
    link.addEventListener("click", () => open(operation.id));
    list.append(make("li", "", link));
  }
  contents.append(make("h2", "", name), list);
  operations.append(section);
}

/** Open an operation and go to it. @param {string} id */
function open(id) {
  const named = document.getElementById(id);
  if (!(named instanceof HTMLDetailsElement)) return;
  named.open = true;
  named.scrollIntoView();
  named.querySelector("summary").focus({ preventScroll: true });
}

/** Find a model that is there, for the examples. */
async function findModel() {
  try {
    known.put("model", (await (await fetch("/models")).json()).models[0].name);
  } catch {
    // The examples keep the model that they have; what is wrong is told where a request is sent.
  }
}
