// Keys of the page. They are left alone while the focus is in a control that has a use for them.

/** @param {Record<string, (event: KeyboardEvent) => void>} keys by `KeyboardEvent.key`, letters in lower case */
export function bindKeys(keys) {
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    const run = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!run || isUsedBy(event.target, event.key)) return;
    event.preventDefault();
    run(event);
  });
}

function isUsedBy(target, key) {
  if (target.closest('select, input[type=password], a')) return true;
  const presses = key === ' ' || key === 'Enter';
  if (target.closest('button, input[type=checkbox], summary')) return presses;
  return Boolean(target.closest('input')) && (presses || key.startsWith('Arrow') || key === 'Home' || key === 'End');
}
