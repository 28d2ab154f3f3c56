// Prepares an image file for the model: rotates it upright, scales it down, and removes its metadata.

const MAX_SIDE = 1280; // pixels; models scale down further themselves
const MAX_FILE_SIZE = 64_000_000; // bytes
const MAX_PNG_LENGTH = 1_000_000; // characters of the data URL; larger images become JPEG
const JPEG_QUALITY = 0.85;

export class ImageError extends Error {}

/**
 * @param {File} file
 * @returns {Promise<string>} a data URL of a PNG or a JPEG
 * @throws {ImageError} its message can be shown to the user
 */
export async function readImage(file) {
  const name = file.name || "The image";
  if (file.size > MAX_FILE_SIZE) throw new ImageError(`${name} is too large. The limit is ${MAX_FILE_SIZE / 1e6} MB.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // applies the orientation in the metadata
  } catch {
    throw new ImageError(`${name} is not a supported image. Use PNG, JPEG, GIF or WebP.`);
  }
  const canvas = draw(bitmap);
  bitmap.close();
  const png = file.type === "image/jpeg" ? "" : canvas.toDataURL("image/png");
  if (png && png.length <= MAX_PNG_LENGTH) return png;
  return flatten(canvas).toDataURL("image/jpeg", JPEG_QUALITY);
}

/** The base64 part of a data URL, as Ollama expects it. @param {string} url */
export function base64Of(url) {
  return url.slice(url.indexOf(",") + 1);
}

/** The data URL of a base64 image. Its first characters identify the format. @param {string} base64 */
export function dataUrlOf(base64) {
  const formats = { "/9j/": "jpeg", iVBO: "png", R0lG: "gif", UklG: "webp" };
  return `data:image/${formats[base64.slice(0, 4)] ?? "png"};base64,${base64}`;
}

/** @param {ImageBitmap} bitmap */
function draw(bitmap) {
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** Fill transparent areas with white: JPEG would show them black. @param {HTMLCanvasElement} canvas */
function flatten(canvas) {
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}
