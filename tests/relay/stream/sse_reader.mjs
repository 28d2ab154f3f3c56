// Reads event streams with eventsource-parser, a parser that conforms to WHATWG HTML, for test_sse.py.
// stdin: a stream per line, as a JSON list of its chunks in base64. stdout: per line what the parser made of it.

import { createInterface } from "node:readline";
import { createParser } from "eventsource-parser";

function read(chunks) {
  const events = [];
  const comments = [];
  const errors = [];
  const parser = createParser({
    onEvent: ({ id, event, data }) => events.push([id ?? null, event ?? null, data]),
    onComment: (comment) => comments.push(comment),
    onError: (error) => errors.push(error.message),
  });
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (const chunk of chunks) {
    parser.feed(decoder.decode(Buffer.from(chunk, "base64"), { stream: true }));
  }
  return { events, comments, errors };
}

const answers = [];
for await (const line of createInterface({ input: process.stdin })) {
  answers.push(JSON.stringify(read(JSON.parse(line))));
}
process.stdout.write(answers.join("\n"));
