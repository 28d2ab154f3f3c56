// Entry point of the API page: loads openapi.json and shows its operations. The URL's fragment names the open one.

import { ApiDocument } from "./openapi_document.js";
import { OperationView } from "./operation_view.js";
import { SharedValues } from "./request.js";
import { makeParagraphs } from "./text.js";
import { urlOfPath } from "../shared/base_path.js";
import { make, makeAlert } from "../shared/dom.js";

const SOURCE = urlOfPath("/static/openapi.json");

const about = document.getElementById("about");
const contents = document.getElementById("contents");
const operations = document.getElementById("operations");

const sharedValues = new SharedValues();

try {
  show(new ApiDocument(await (await fetch(SOURCE)).json()));
} catch {
  operations.append(makeAlert("Cannot reach the server. Check that chatterd is running, then reload this page."));
}
await loadModel();

/** @param {ApiDocument} api */
function show(api) {
  const source = /** @type {HTMLAnchorElement} */ (make("a", "button", "openapi.json"));
  source.href = SOURCE;
  about.append(make("h2", "", api.summary), ...makeParagraphs(api.description), make("p", "", source));
  for (const group of api.groups) showGroup(api, group);
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  open(location.hash.slice(1));
}

/** @param {ApiDocument} api @param {import("./openapi_document.js").Group} group */
function showGroup(api, { name, description, operations: groupOperations }) {
  const section = make("section", "group", make("h2", "", name), ...makeParagraphs(description));
  const list = make("ul", "");
  for (const operation of groupOperations) {
    section.append(new OperationView(api, operation, sharedValues).element);
    const link = /** @type {HTMLAnchorElement} */ (make("a", "", operation.summary));
    link.href = `#${operation.id}`;
    link.addEventListener("click", () => open(operation.id));
    list.append(make("li", "", link));
  }
  contents.append(make("h2", "", name), list);
  operations.append(section);
}

/** Open an operation and scroll to it. @param {string} id */
function open(id) {
  const details = document.getElementById(id);
  if (!(details instanceof HTMLDetailsElement)) return;
  details.open = true;
  details.scrollIntoView();
  details.querySelector("summary").focus({ preventScroll: true });
}

/** Use an installed model in the examples. */
async function loadModel() {
  try {
    sharedValues.set("model", (await (await fetch(urlOfPath("/models"))).json()).models[0].name);
  } catch {
    // The examples keep their model name. A request that is sent shows the error.
  }
}
