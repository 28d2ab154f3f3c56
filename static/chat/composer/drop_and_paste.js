// Files dropped or pasted anywhere on the page.

/** @param {(files: File[]) => void} onFiles @param {HTMLElement} target is highlighted while files are dragged */
export function onFileDropOrPaste(onFiles, target) {
  let depth = 0; // dragenter and dragleave fire for nested elements, too
  const setDepth = (value) => {
    depth = Math.max(0, value);
    target.classList.toggle("drop-target", depth > 0);
  };
  addEventListener("dragenter", (event) => hasFiles(event.dataTransfer) && setDepth(depth + 1));
  addEventListener("dragleave", (event) => hasFiles(event.dataTransfer) && setDepth(depth - 1));
  addEventListener("dragover", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault(); // else the browser would open the file
    event.dataTransfer.dropEffect = document.querySelector("dialog[open]") ? "none" : "copy";
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    setDepth(0);
    if (!document.querySelector("dialog[open]")) onFiles([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const images = [...(event.clipboardData?.files ?? [])].filter(({ type }) => type.startsWith("image/"));
    const text = event.clipboardData?.getData("text/plain"); // a copied table has a text and an image form: paste the text
    if (!images.length || text || event.target.closest("dialog, .sidebar")) return;
    event.preventDefault();
    onFiles(images);
  });
}

/** @param {DataTransfer | null} transfer */
function hasFiles(transfer) {
  return transfer?.types.includes("Files") ?? false;
}
