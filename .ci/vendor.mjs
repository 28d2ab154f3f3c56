// Download the pages' libraries from npm, in the versions listed in static/vendor/vendor.json (`make vendor`).

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const VENDOR = fileURLToPath(new URL("../static/vendor/", import.meta.url));

const { packages } = JSON.parse(readFileSync(join(VENDOR, "vendor.json"), "utf8"));
const folder = mkdtempSync(join(tmpdir(), "chatterd-vendor-"));
try {
  for (const entry of packages) download(entry);
} finally {
  rmSync(folder, { recursive: true });
}

/** @param {{name: string, version: string, integrity: string, files: Object<string, string>}} entry */
function download({ name, version, integrity, files }) {
  const archive = run("npm", "pack", "--silent", `${name}@${version}`).trim();
  const hash = createHash("sha512").update(readFileSync(join(folder, archive))).digest("base64");
  if (`sha512-${hash}` !== integrity) throw new Error(`${name}@${version}: expected ${integrity}, got sha512-${hash}`);
  run("tar", "xzf", archive);
  for (const [target, source] of Object.entries(files)) {
    mkdirSync(dirname(join(VENDOR, target)), { recursive: true });
    copyFileSync(join(folder, "package", source), join(VENDOR, target));
  }
  rmSync(join(folder, "package"), { recursive: true });
  console.log(`${name} ${version}`);
}

/** @param {string} program @param {...string} args */
function run(program, ...args) {
  return execFileSync(program, args, { cwd: folder, encoding: "utf8" });
}
