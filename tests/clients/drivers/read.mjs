// Reads a reply with a library in node, and prints the events as JSON. Argument: as for read.py.

import * as libraries from "./libraries.mjs";

const options = JSON.parse(process.argv[2]);

async function events() {
  switch (options.library) {
    case "eventsource":
      return libraries.readWithEventSource((await import("eventsource")).EventSource, options);
    case "undici":
      return libraries.readWithEventSource((await import("undici")).EventSource, options);
    case "eventsource-client":
      return libraries.readWithEventSourceClient(await import("eventsource-client"), options);
    case "eventsource-parser":
      return libraries.readWithFetch(await import("eventsource-parser"), options);
    case "fetch-event-source":
      // It is written for browsers, and looks at these two.
      globalThis.window = globalThis;
      globalThis.document = { addEventListener() {}, removeEventListener() {} };
      return libraries.readWithFetchEventSource((await import("@microsoft/fetch-event-source")).default, options);
  }
}

setInterval(() => {}, 1_000); // while undici waits to reconnect, nothing else keeps node running
process.stdout.write(JSON.stringify(await events()), () => process.exit(0));
