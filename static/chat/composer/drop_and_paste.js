// Images that are pasted or dropped anywhere on the page.

/** @param {(files: File[]) => void} onImages @param {HTMLElement} page shows that something may be dropped */
export function takeDroppedImages(onImages, page) {
  let depth = 0; // each element on the way tells of entering and leaving
  const show = (change) => {
    depth = Math.max(0, change(depth));
    page.classList.toggle("drop-here", depth > 0);
  };
  addEventListener("dragenter", (event) => hasFiles(event.dataTransfer) && show((level) => level + 1));
  addEventListener("dragleave", (event) => hasFiles(event.dataTransfer) && show((level) => level - 1));
  addEventListener("dragover", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault(); // else the browser would leave the page for the file
    event.dataTransfer.dropEffect = document.querySelector("dialog[open]") ? "none" : "copy";
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    show(() => 0);
    if (!document.querySelector("dialog[open]")) onImages([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const images = [...(event.clipboardData?.files ?? [])].filter(({ type }) => type.startsWith("image/"));
    const text = event.clipboardData?.getData("text/plain"); // a copied table comes as words and as a picture
    if (!images.length || text || event.target.closest("dialog, .sidebar")) return;
    event.preventDefault();
    onImages(images);
  });
}

/** @param {DataTransfer | null} transfer */
function hasFiles(transfer) {
  return transfer?.types.includes("Files") ?? false;
}
