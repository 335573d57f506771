// Files that are dropped on the page.

/**
 * @param {HTMLElement} hint shown while a file is over the page
 * @param {(file: File, target: Element) => void} onFile
 */
export function bindDrop(hint, onFile) {
  let inside = 0;
  const show = (change) => {
    inside = Math.max(0, inside + change);
    hint.hidden = inside === 0;
  };
  const isFile = (event) => [...event.dataTransfer.types].includes('Files');
  document.addEventListener('dragenter', (event) => isFile(event) && show(1));
  document.addEventListener('dragleave', (event) => isFile(event) && show(-1));
  document.addEventListener('dragover', (event) => event.preventDefault());
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    inside = 0;
    show(0);
    if (event.dataTransfer.files.length) onFile(event.dataTransfer.files[0], event.target);
  });
}
