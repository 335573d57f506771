// Close codes of the stream in plain words; docs/protocol.md lists them.

import { Code } from './protocol.js';

const WORDS = {
  [Code.ENDED]: 'the session has been ended',
  [Code.LOST]: 'the connection broke without a word',
  [Code.MESSAGE_TOO_BIG]: 'a message was far too large for the server',
  [Code.STOPPING]: 'the server is about to stop',
  [Code.HELLO]: 'the server refused the settings of the session',
  [Code.REVOKED]: 'the token has been revoked, or has expired',
  [Code.NOT_FOUND]: 'the server knows no such model or session',
  [Code.TIMEOUT]: 'nothing was sent or taken for too long, or the session has lived for too long',
  [Code.TAKEN_OVER]: 'another connection has taken up the session',
  [Code.TOO_LARGE]: 'a message was too large for the server',
  [Code.UNUSABLE]: 'the server could not use a message',
  [Code.FULL]: 'the server has no room for another session',
};

/**
 * What a close code means.
 *
 * @param {number} code
 * @param {string} [reason] from the close frame; used where this page has no words for the code
 */
export function explainClose(code, reason = '') {
  return `${WORDS[code] ?? (reason || 'the connection was closed')} (code ${code})`;
}
