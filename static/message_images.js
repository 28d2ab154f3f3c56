// The images of a message in the transcript.

import { make } from "./elements.js";
import { dataUrlOf } from "./image_file.js";

/** @param {string[]} images in base64 @returns {HTMLElement} */
export function makeImages(images) {
  return make("div", "images", ...images.map((base64, place) => {
    const picture = make("img", "");
    picture.src = dataUrlOf(base64);
    picture.alt = images.length === 1 ? "Image" : `Image ${place + 1}`;
    return picture;
  }));
}
