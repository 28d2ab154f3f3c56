// An answer while it comes: status, headers, and its body as it grows.

import { EventsView } from "./event_list.js";
import { makeCode } from "./text.js";
import { make, makeAlert, makeButton } from "../shared/dom.js";
import { signInAddress } from "../shared/session.js";

const LIMIT = 200_000;
/** Characters of a body that are shown. */

export class AnswerView {
  #status = make("p", "state", "Sending …");
  #body = make("div", "");
  #headers = make("ul", "fields");
  #close;
  #known;
  #began = performance.now();

  /**
   * @param {string} command the same request for a shell
   * @param {import("./request.js").KnownValues} known takes what other operations can use
   * @param {() => void} onClose
   */
  constructor(command, known, onClose) {
    this.#known = known;
    this.#close = makeButton("Close the connection", onClose);
    this.#status.setAttribute("role", "status");
    const headers = make("details", "shape", make("summary", "", "Headers of the answer"), this.#headers);
    const shell = make("details", "shape", make("summary", "", "The same in a shell"), makeCode("Command", command));
    this.element = make("div", "answer", make("div", "state-bar", this.#status, this.#close), this.#body, headers, shell);
  }

  /** Show the answer to its end. @param {Response} response */
  async show(response) {
    const title = `${response.status} ${response.statusText}`.trim();
    this.element.classList.add(response.ok ? "good" : "bad");
    this.#status.textContent = `${title} after ${this.#elapsed()}, reading …`;
    for (const [name, value] of response.headers) {
      this.#headers.append(make("li", "", make("code", "name", name), " ", make("span", "", value)));
    }
    this.#passOn(response.headers);
    if (response.status === 401) this.#offerSignIn();
    const size = await this.#read(response);
    this.#close.hidden = true;
    this.#status.textContent = `${title}, ${size}, ${this.#elapsed()}`;
  }

  /** @param {boolean} closed by the person who looks on */
  fail(closed) {
    this.#close.hidden = true;
    this.#status.textContent = closed ? "You closed the connection. A reply goes on all the same." : "No answer.";
    if (!closed) this.#body.append(makeAlert("The connection broke. Check that chatterd is running, then try again."));
  }

  #elapsed() {
    return `${Math.round(performance.now() - this.#began)} ms`;
  }

  /** Lead to where one signs in, and back; what was filled in here would be gone, so it opens beside. */
  #offerSignIn() {
    const link = Object.assign(make("a", "quiet", "Sign in"), { href: signInAddress(), target: "_blank" });
    this.#status.after(link);
  }

  /** @param {Headers} headers */
  #passOn(headers) {
    const place = headers.get("Content-Location") ?? headers.get("Location");
    const id = place?.match(/^\/llmchat\/([^/]+)$/)?.[1];
    if (id) this.#known.put("replyId", id);
  }

  /** @param {Response} response @returns {Promise<string>} how much it was */
  async #read(response) {
    const type = response.headers.get("Content-Type") ?? "";
    if (type.startsWith("text/event-stream")) return this.#readEvents(response);
    const text = make("code", "");
    const block = makeCode("Body of the answer", "");
    block.replaceChildren(text);
    this.#body.replaceChildren(block);
    let whole = "";
    await eachPiece(response, (piece) => {
      whole += piece;
      if (text.textContent.length < LIMIT) text.append(piece.slice(0, LIMIT));
    });
    block.hidden = !whole;
    if (type.startsWith("application/json")) text.textContent = indented(whole).slice(0, LIMIT);
    return whole ? `${whole.length} characters` : "no body";
  }

  /** @param {Response} response */
  async #readEvents(response) {
    const events = new EventsView();
    this.#body.replaceChildren(events.element);
    await eachPiece(response, (piece) => events.feed(piece));
    return events.count === 1 ? "1 event" : `${events.count} events`;
  }
}

/** @param {Response} response @param {(piece: string) => void} take */
async function eachPiece(response, take) {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  for (let next = await reader.read(); !next.done; next = await reader.read()) take(next.value);
}

/** @param {string} text */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
