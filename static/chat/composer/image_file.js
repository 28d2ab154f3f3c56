// Turns a picture from a person's computer into what a model is sent: upright, of sensible size, without its metadata.

const LONGEST_SIDE = 1280; // pixels; models scale down further themselves
const LARGEST_FILE = 64_000_000; // bytes
const LARGEST_PNG = 1_000_000; // characters of its data URL; a larger picture is sent as JPEG
const JPEG_QUALITY = 0.85;

export class ImageError extends Error {}

/**
 * @param {File} file
 * @returns {Promise<string>} a data URL of a PNG or a JPEG
 * @throws {ImageError} its message is a sentence to show
 */
export async function readImage(file) {
  const name = file.name || "The image";
  if (file.size > LARGEST_FILE) throw new ImageError(`${name} is too large: an image may have ${LARGEST_FILE / 1e6} MB.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // turned upright as its metadata says
  } catch {
    throw new ImageError(`${name} cannot be read as an image. PNG, JPEG, GIF and WebP can.`);
  }
  const canvas = draw(bitmap);
  bitmap.close();
  const png = file.type === "image/jpeg" ? "" : canvas.toDataURL("image/png");
  if (png && png.length <= LARGEST_PNG) return png;
  return opaque(canvas).toDataURL("image/jpeg", JPEG_QUALITY);
}

/** What Ollama is sent of a data URL: the part in base64. @param {string} url */
export function base64Of(url) {
  return url.slice(url.indexOf(",") + 1);
}

/** The data URL of an image in base64; its first letters tell what it is. @param {string} base64 */
export function dataUrlOf(base64) {
  const kinds = { "/9j/": "jpeg", iVBO: "png", R0lG: "gif", UklG: "webp" };
  return `data:image/${kinds[base64.slice(0, 4)] ?? "png"};base64,${base64}`;
}

/** @param {ImageBitmap} bitmap */
function draw(bitmap) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** On white: a JPEG has no transparency, and would be black there. @param {HTMLCanvasElement} canvas */
function opaque(canvas) {
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}
