// The token of a server with API keys: asked for when the server wants one, kept for as long as the tab is open. It goes
// into a header, or, since browsers cannot set headers of a WebSocket, into the subprotocols; never into an address.

const KEPT = 'spikeseg.token';
const SUBPROTOCOL = 'spikeseg.v1';
const UNAUTHENTICATED = 401;

let asking = null;

const kept = () => sessionStorage.getItem(KEPT);

/** What to offer in the handshake of a WebSocket. */
export function subprotocols() {
  const token = kept();
  return token ? [SUBPROTOCOL, `bearer.${token}`] : [];
}

/** As `fetch`, with the token; where the server wants another one, the user is asked, and the request sent again. */
export async function authorizedFetch(url, options = {}) {
  for (;;) {
    const token = kept();
    const headers = new Headers(options.headers);
    if (token) headers.set('Authorization', `Bearer ${token}`);
    const response = await fetch(url, { ...options, headers });
    if (response.status !== UNAUTHENTICATED) return response;
    // Another request may have asked meanwhile.
    if (kept() === token) await (asking ??= ask(token !== null).finally(() => { asking = null; }));
  }
}

/** Show the field; done once there is a token. */
function ask(refused) {
  const dialog = document.createElement('dialog');
  dialog.className = 'token';
  dialog.setAttribute('aria-labelledby', 'token-title');
  const title = Object.assign(document.createElement('h2'), { id: 'token-title', textContent: 'This server wants a token' });
  const why = document.createElement('p');
  why.textContent = refused
    ? 'It does not take the one that was given; it may have expired.'
    : 'Whoever runs it makes one with “python -m service.keys new”. It is forgotten when this tab is closed.';
  const form = document.createElement('form');
  form.method = 'dialog';
  const label = document.createElement('label');
  const field = Object.assign(document.createElement('input'), {
    id: 'token', type: 'password', required: true, autocomplete: 'off', pattern: '[A-Za-z0-9_.\\-]+',
    title: 'letters, digits, “_”, “.” and “-”',
  });
  const button = Object.assign(document.createElement('button'), { type: 'submit', className: 'primary', textContent: 'Use it' });
  label.append('Token ', field);
  form.append(label, button);
  dialog.append(title, why, form);
  // There is nothing to see without one.
  dialog.addEventListener('cancel', (event) => event.preventDefault());
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener('submit', () => {
      sessionStorage.setItem(KEPT, field.value.trim());
      dialog.remove();
      resolve();
    });
  });
}
