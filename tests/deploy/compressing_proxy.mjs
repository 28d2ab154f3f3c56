// A proxy that compresses responses with Express' middleware `compression`, for test_compression.py.
// Argument: the server's URL. stdout: the proxy's own URL. It ends when stdin does.

import http from "node:http";
import compression from "compression";

const target = new URL(process.argv[2]);
const compress = compression({ threshold: 0 });

const proxy = http.createServer((request, response) => {
  compress(request, response, () => {
    const { method, url, headers } = request;
    const forwarded = http.request(target, { method, path: url, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    request.pipe(forwarded);
    response.on("close", () => forwarded.destroy());
    forwarded.on("error", () => response.destroy());
  });
});

proxy.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${proxy.address().port}`));
process.stdin.on("end", () => process.exit(0)).resume();
