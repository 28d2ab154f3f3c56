// A response while it is received: status, headers and body.

import { EventList } from "./event_list.js";
import { makeCode } from "./text.js";
import { make, makeAlert, makeButton } from "../shared/dom.js";
import { signInUrl } from "../shared/session.js";

const MAX_BODY = 200_000; // characters shown

export class ResponseView {
  #status = make("p", "response-status", "Sending…");
  #body = make("div", "");
  #headers = make("ul", "fields");
  #close;
  #sharedValues;
  #startedAt = performance.now();

  /**
   * @param {string} command the request as a curl command
   * @param {import("./request.js").SharedValues} sharedValues
   * @param {() => void} onClose
   */
  constructor(command, sharedValues, onClose) {
    this.#sharedValues = sharedValues;
    this.#close = makeButton("Close connection", onClose);
    this.#status.setAttribute("role", "status");
    const headers = make("details", "collapsible", make("summary", "", "Response headers"), this.#headers);
    const curl = make("details", "collapsible", make("summary", "", "curl command"), makeCode("Command", command));
    this.element = make("div", "live-response", make("div", "response-header", this.#status, this.#close), this.#body, headers, curl);
  }

  /** Show the response until its end. @param {Response} response */
  async show(response) {
    const title = `${response.status} ${response.statusText}`.trim();
    this.element.classList.add(response.ok ? "success" : "failure");
    this.#status.textContent = `${title} after ${this.#elapsed()}, receiving…`;
    for (const [name, value] of response.headers) {
      this.#headers.append(make("li", "", make("code", "name", name), " ", make("span", "", value)));
    }
    this.#shareValues(response.headers);
    if (response.status === 401) this.#offerSignIn();
    const size = await this.#read(response);
    this.#close.hidden = true;
    this.#status.textContent = `${title}, ${size}, ${this.#elapsed()}`;
  }

  /** @param {boolean} isClosed by the user */
  showFailure(isClosed) {
    this.#close.hidden = true;
    this.#status.textContent = isClosed ? "Connection closed. A running reply continues on the server." : "No response.";
    if (!isClosed) this.#body.append(makeAlert("Connection failed. Check that chatterd is running, then try again."));
  }

  #elapsed() {
    return `${Math.round(performance.now() - this.#startedAt)} ms`;
  }

  /** Link to the sign-in page in a new tab, which keeps the values of this form. */
  #offerSignIn() {
    const link = Object.assign(make("a", "button", "Sign in"), { href: signInUrl(), target: "_blank" });
    this.#status.after(link);
  }

  /** @param {Headers} headers */
  #shareValues(headers) {
    const location = headers.get("Content-Location") ?? headers.get("Location");
    const id = location?.match(/\/llmchat\/([^/]+)$/)?.[1];
    if (id) this.#sharedValues.set("replyId", id);
  }

  /** @param {Response} response @returns {Promise<string>} its size in words */
  async #read(response) {
    const type = response.headers.get("Content-Type") ?? "";
    if (type.startsWith("text/event-stream")) return this.#readEvents(response);
    const text = make("code", "");
    const block = makeCode("Response body", "");
    block.replaceChildren(text);
    this.#body.replaceChildren(block);
    let body = "";
    await forEachChunk(response, (chunk) => {
      body += chunk;
      if (text.textContent.length < MAX_BODY) text.append(chunk.slice(0, MAX_BODY));
    });
    block.hidden = !body;
    if (type.startsWith("application/json")) text.textContent = indent(body).slice(0, MAX_BODY);
    return body ? `${body.length} characters` : "no body";
  }

  /** @param {Response} response */
  async #readEvents(response) {
    const events = new EventList();
    this.#body.replaceChildren(events.element);
    await forEachChunk(response, (chunk) => events.feed(chunk));
    return events.count === 1 ? "1 event" : `${events.count} events`;
  }
}

/** @param {Response} response @param {(chunk: string) => void} callback */
async function forEachChunk(response, callback) {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  for (let next = await reader.read(); !next.done; next = await reader.read()) callback(next.value);
}

/** @param {string} text */
function indent(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
