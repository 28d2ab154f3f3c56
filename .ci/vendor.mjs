// Brings the pages' libraries from npm, each in exactly the version that static/vendor/vendor.json names (`make vendor`).

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const HOME = new URL("../static/vendor/", import.meta.url).pathname;

const { packages } = JSON.parse(readFileSync(join(HOME, "vendor.json"), "utf8"));
const folder = mkdtempSync(join(tmpdir(), "chatterd-vendor-"));
try {
  for (const one of packages) bring(one);
} finally {
  rmSync(folder, { recursive: true });
}

/** @param {{name: string, version: string, integrity: string, files: Object<string, string>}} wanted */
function bring({ name, version, integrity, files }) {
  const archive = run("npm", "pack", "--silent", `${name}@${version}`).trim();
  const hash = createHash("sha512").update(readFileSync(join(folder, archive))).digest("base64");
  if (`sha512-${hash}` !== integrity) throw new Error(`${name}@${version} has the integrity sha512-${hash}`);
  run("tar", "xzf", archive);
  for (const [target, source] of Object.entries(files)) {
    mkdirSync(dirname(join(HOME, target)), { recursive: true });
    copyFileSync(join(folder, "package", source), join(HOME, target));
  }
  rmSync(join(folder, "package"), { recursive: true });
  console.log(`${name} ${version}`);
}

/** @param {string} program @param {...string} words */
function run(program, ...words) {
  return execFileSync(program, words, { cwd: folder, encoding: "utf8" });
}
