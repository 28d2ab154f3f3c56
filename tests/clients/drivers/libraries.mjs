// Libraries for event streams in JavaScript. Each function reads a reply with its options (method, url, body) and resolves
// to its events, [id, name, data], up to the last one. Time limits are the libraries' own.

const RETRY_PAUSE = 200; // milliseconds

/** Rejections after which a library that was not closed is stopped. */
const MAX_REJECTIONS = 3;

/** Whether an event is the last one of a reply. */
const ends = ([, name, data]) => name === "error" || JSON.parse(data).done === true;

/** @param {{method: string, body: any}} options */
function init({ method, body }) {
  return body === null ? { method } : { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
}

/** Any implementation of the WHATWG interface. @param {typeof EventSource} EventSource */
export function readWithEventSource(EventSource, { url }) {
  return new Promise((resolve, reject) => {
    const events = [];
    let source = new EventSource(url);
    const handle = (event) => {
      if (typeof event.data !== "string") return handleDisconnect();
      events.push([event.lastEventId, event.type, event.data]);
      if (ends(events.at(-1))) {
        source.close();
        resolve(events);
      }
    };
    function handleDisconnect() {
      // CONNECTING: it reconnects by itself. CLOSED: the status was neither 200 nor 204.
      if (source.readyState === source.CLOSED) reject(new Error("the server rejected the request"));
    }
    source.onmessage = source.onerror = handle;
  });
}

export async function readWithFetchEventSource({ fetchEventSource }, options) {
  const events = [];
  const done = new AbortController();
  let rejections = 0;
  await fetchEventSource(options.url, {
    ...init(options),
    signal: done.signal,
    openWhenHidden: true,
    onmessage({ id, event, data }) {
      events.push([id, event || "message", data]);
      if (options.closes && ends(events.at(-1))) done.abort();
    },
    onerror() {
      if (!options.closes && ++rejections > MAX_REJECTIONS) done.abort();
    },
    onclose() {
      throw new Error("closed before the end"); // makes it reconnect
    },
  });
  return events;
}

export async function readWithEventSourceClient({ createEventSource }, options) {
  const events = [];
  const source = createEventSource({ url: options.url, ...init(options) });
  for await (const { id, event, data } of source) {
    events.push([id, event ?? "message", data]);
    if (options.closes && ends(events.at(-1))) source.close();
  }
  return events;
}

/** fetch, with a parser that is fed with text: it follows by itself, as docs/clients.md says. */
export async function readWithFetch({ createParser }, options) {
  const events = [];
  const parser = () => createParser({ onEvent: ({ id, event, data }) => events.push([id, event ?? "message", data]) });
  let { url } = options;
  let request = init(options);
  while (!events.length || !ends(events.at(-1))) {
    try {
      const response = await fetch(url, request);
      if (!response.ok) throw new Error(`status ${response.status}`);
      if (response.status === 204) break;
      url = new URL(response.headers.get("Content-Location"), url);
      const { feed } = parser();
      for await (const text of read(response.body.pipeThrough(new TextDecoderStream()))) feed(text);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // what fetch throws when the connection is lost
    }
    request = events.length ? { headers: { "Last-Event-ID": events.at(-1)[0] } } : {};
    await new Promise((resolve) => setTimeout(resolve, RETRY_PAUSE));
  }
  return events;
}

/** @param {ReadableStream<string>} stream */
async function* read(stream) {
  const reader = stream.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
}
