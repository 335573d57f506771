// Requests to the server that this page came from, and what went wrong with them in words.

import { FormatError } from './protocol.js';
import { authorizedFetch } from './token.js';

const BASE = new URL('..', import.meta.url);

/** What went wrong at the server, in its own words. */
export class ProblemError extends Error {}

/** Address of the stream. */
export function streamUrl() {
  const url = new URL('v1/stream', BASE);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  return url;
}

/** As `fetch`, with the token; an answer that is no success is an error. */
export async function ask(path, options) {
  let response;
  try {
    response = await authorizedFetch(new URL(path, BASE), options);
  } catch {
    throw new ProblemError('The server cannot be reached.');
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => null);
  const fields = (problem?.errors ?? []).map(({ field, message }) => `${field}: ${message}`);
  const said = [problem?.detail ?? problem?.title, ...fields].filter(Boolean).join(' ');
  throw new ProblemError(said || `The server answered ${response.status} ${response.statusText}.`);
}

/** An error as a sentence for the user. */
export function reason(error) {
  if (error instanceof ProblemError || error instanceof FormatError) return error.message;
  if (error instanceof DOMException) return 'The browser cannot read the file.';
  console.error(error);
  return 'Something unexpected went wrong; the console of the browser has the details.';
}
