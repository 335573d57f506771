// Bytes to objects and back: event packets and WebSocket messages, as docs/protocol.md lays them down.
// Nothing here keeps state, opens a socket or touches the page.

export const VERSION = 1;

/** Kinds of binary message. */
export const Kind = Object.freeze({ EVENTS: 1, ADVANCE: 2, RESET: 3, END: 4, FRAME: 6, RESULT: 129, ACK: 130, GOAWAY: 131 });

/** Close codes of the stream. */
export const Code = Object.freeze({
  ENDED: 1000,
  LOST: 1006,
  MESSAGE_TOO_BIG: 1009,
  STOPPING: 1012,
  HELLO: 4400,
  REVOKED: 4401,
  NOT_FOUND: 4404,
  TIMEOUT: 4408,
  TAKEN_OVER: 4409,
  TOO_LARGE: 4413,
  UNUSABLE: 4422,
  FULL: 4429,
});

const MAGIC = 0x31564553; // "SEV1", read as a little-endian number
const PACKET_HEADER = 32;
const MESSAGE_HEADER = 16;
const FRAME_HEADER = 16;
const PACKED_RECORD = 8;
const WIDE_RECORD = 13;

/** Bytes or text that do not follow the protocol. */
export class FormatError extends Error {
  name = 'FormatError';
}

/**
 * A recording held in memory, one entry per event.
 *
 * @typedef {object} Recording
 * @property {number} width   sensor width in pixels
 * @property {number} height  sensor height in pixels
 * @property {Float64Array} t times in µs (whole numbers), never decreasing
 * @property {Uint16Array} x
 * @property {Uint16Array} y
 * @property {Uint8Array} p   1 ON, 0 OFF
 */

/** Whether a file holds event packets. */
export function isRecording(buffer) {
  return buffer.byteLength >= 4 && new DataView(buffer).getUint32(0, true) === MAGIC;
}

/**
 * Read event packets that stand one after the other.
 *
 * @param {ArrayBuffer} buffer
 * @returns {Recording}
 */
export function parseRecording(buffer) {
  const view = new DataView(buffer);
  const packets = packetHeaders(view);
  const total = packets.reduce((sum, packet) => sum + packet.count, 0);
  if (total === 0) throw new FormatError('The recording holds no events.');
  const { width, height } = packets[0];

  const t = new Float64Array(total);
  const x = new Uint16Array(total);
  const y = new Uint16Array(total);
  const p = new Uint8Array(total);
  let i = 0;
  for (const packet of packets) {
    if (packet.width !== width || packet.height !== height) {
      throw new FormatError(`One packet is for a ${packet.width}×${packet.height} sensor, another for ${width}×${height}.`);
    }
    for (let at = packet.records; at < packet.end; at += packet.recordSize, i++) {
      if (packet.recordSize === PACKED_RECORD) {
        const row = view.getUint16(at + 6, true);
        t[i] = packet.timeBase + view.getUint32(at, true);
        x[i] = view.getUint16(at + 4, true);
        y[i] = row & 0x7fff;
        p[i] = row >> 15;
      } else {
        t[i] = readInt64(view, at);
        x[i] = view.getUint16(at + 8, true);
        y[i] = view.getUint16(at + 10, true);
        p[i] = view.getUint8(at + 12);
        if (p[i] > 1) throw new FormatError(`Event ${i} has polarity ${p[i]}.`);
      }
      if (x[i] >= width || y[i] >= height) {
        throw new FormatError(`Event ${i} at (${x[i]}, ${y[i]}) lies outside the ${width}×${height} sensor.`);
      }
      if (i > 0 && t[i] < t[i - 1]) throw new FormatError(`Time goes back at event ${i}.`);
    }
  }
  return { width, height, t, x, y, p };
}

function packetHeaders(view) {
  const packets = [];
  let at = 0;
  while (at < view.byteLength) {
    if (at + PACKET_HEADER > view.byteLength) throw new FormatError(`The packet at byte ${at} is cut off.`);
    if (view.getUint32(at, true) !== MAGIC) throw new FormatError(`There is no event packet at byte ${at}.`);
    const encoding = view.getUint16(at + 4, true);
    if (encoding > 1) throw new FormatError(`The packet at byte ${at} has the unknown encoding ${encoding}.`);
    const recordSize = encoding === 0 ? PACKED_RECORD : WIDE_RECORD;
    const count = view.getUint32(at + 28, true);
    const records = at + PACKET_HEADER;
    const end = records + count * recordSize;
    if (end > view.byteLength) throw new FormatError(`The packet at byte ${at} is cut off.`);
    packets.push({
      timeBase: readInt64(view, at + 16),
      width: view.getUint16(at + 24, true),
      height: view.getUint16(at + 26, true),
      count,
      recordSize,
      records,
      end,
    });
    at = end;
  }
  return packets;
}

function readInt64(view, at) {
  const value = Number(view.getBigInt64(at, true));
  if (value < 0 || !Number.isSafeInteger(value)) throw new FormatError(`The time at byte ${at} is out of range.`);
  return value;
}

/** Index of the first event at or after a time. */
export function firstAtOrAfter(t, time) {
  let low = 0;
  let high = t.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (t[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** How many events fit into an EVENTS message of at most so many bytes. */
export function eventsPerMessage(maxBytes) {
  return Math.max(1, Math.floor((maxBytes - MESSAGE_HEADER - PACKET_HEADER) / PACKED_RECORD));
}

/**
 * An EVENTS message with the events `from` ≤ i < `to` of a recording; they must span less than 2³² µs.
 *
 * @param {number} sequence the message number
 * @param {Recording} recording
 */
export function encodeEvents(sequence, recording, from, to) {
  const { width, height, t, x, y, p } = recording;
  const count = to - from;
  const timeBase = count ? t[from] : 0;
  const { buffer, view } = message(Kind.EVENTS, sequence, PACKET_HEADER + count * PACKED_RECORD);
  view.setUint32(16, MAGIC, true);
  view.setBigUint64(24, BigInt(sequence), true);
  view.setBigInt64(32, BigInt(timeBase), true);
  view.setUint16(40, width, true);
  view.setUint16(42, height, true);
  view.setUint32(44, count, true);
  for (let i = from, at = MESSAGE_HEADER + PACKET_HEADER; i < to; i++, at += PACKED_RECORD) {
    view.setUint32(at, t[i] - timeBase, true);
    view.setUint16(at + 4, x[i], true);
    view.setUint16(at + 6, y[i] | (p[i] << 15), true);
  }
  return buffer;
}

/** An ADVANCE message: every event before `time` has been sent. */
export function encodeAdvance(sequence, time) {
  const { buffer, view } = message(Kind.ADVANCE, sequence, 8);
  view.setBigInt64(MESSAGE_HEADER, BigInt(time), true);
  return buffer;
}

/**
 * A FRAME message around grey pixels.
 *
 * @param {number} sequence the message number
 * @param {number} time µs
 * @param {{width: number, height: number, grey: Uint8Array}} picture a byte for each pixel, row by row
 */
export function encodeFrame(sequence, time, { width, height, grey }) {
  const { buffer, view } = message(Kind.FRAME, sequence, FRAME_HEADER + grey.length);
  view.setBigInt64(MESSAGE_HEADER, BigInt(time), true);
  view.setUint16(MESSAGE_HEADER + 8, width, true);
  view.setUint16(MESSAGE_HEADER + 10, height, true);
  new Uint8Array(buffer, MESSAGE_HEADER + FRAME_HEADER).set(grey);
  return buffer;
}

/** Bytes of a FRAME message of that size. */
export function frameBytes(width, height) {
  return MESSAGE_HEADER + FRAME_HEADER + width * height;
}

export function encodeReset(sequence) {
  return message(Kind.RESET, sequence, 0).buffer;
}

export function encodeEnd(sequence) {
  return message(Kind.END, sequence, 0).buffer;
}

function message(kind, sequence, payloadBytes) {
  const buffer = new ArrayBuffer(MESSAGE_HEADER + payloadBytes);
  const view = new DataView(buffer);
  view.setUint8(0, kind);
  view.setUint32(4, payloadBytes, true);
  view.setBigUint64(8, BigInt(sequence), true);
  return { buffer, view };
}

/**
 * Read a binary message of the server.
 *
 * @param {ArrayBuffer} buffer
 * @returns {{kind: 129, window: number, meta: object, mask: Uint8Array} |
 *   {kind: 130, answered: number, acked: number, credit: number} | {kind: 131}}
 */
export function parseMessage(buffer) {
  if (buffer.byteLength < MESSAGE_HEADER) throw new FormatError('The server sent a message without a header.');
  const view = new DataView(buffer);
  const kind = view.getUint8(0);
  const length = view.getUint32(4, true);
  if (MESSAGE_HEADER + length !== buffer.byteLength) throw new FormatError('The server sent a message of the wrong length.');
  const sequence = Number(view.getBigUint64(8, true));
  if (kind === Kind.GOAWAY) return { kind };
  if (kind === Kind.ACK) {
    const { acked, credit } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, MESSAGE_HEADER)));
    if (!Number.isInteger(acked)) throw new FormatError('The server sent an acknowledgement without a number.');
    return { kind, answered: sequence, acked, credit };
  }
  if (kind !== Kind.RESULT) throw new FormatError(`The server sent a message of the unknown kind ${kind}.`);

  const metaEnd = MESSAGE_HEADER + 4 + (length >= 4 ? view.getUint32(MESSAGE_HEADER, true) : length);
  if (metaEnd > buffer.byteLength) throw new FormatError('The server sent a result that is cut off.');
  const json = new TextDecoder().decode(new Uint8Array(buffer, MESSAGE_HEADER + 4, metaEnd - MESSAGE_HEADER - 4));
  return { kind, window: sequence, meta: JSON.parse(json), mask: new Uint8Array(buffer, metaEnd) };
}

/** The best mask encoding that this browser can undo. */
export function preferredMaskEncoding() {
  return typeof DecompressionStream === 'function' ? 'zlib' : 'raw';
}

/**
 * Undo a mask's encoding.
 *
 * @param {Uint8Array} bytes
 * @param {{encoding: string, width: number, height: number}} info `mask` of the result's metadata
 * @returns {Promise<Uint8Array>} class ids, row by row
 */
export async function decodeMask(bytes, info) {
  let ids = bytes;
  if (info.encoding === 'zlib') {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
    try {
      ids = new Uint8Array(await new Response(stream).arrayBuffer());
    } catch (error) {
      throw new FormatError('A mask is no zlib stream.', { cause: error });
    }
  } else if (info.encoding !== 'raw') {
    throw new FormatError(`Masks encoded as ${info.encoding} cannot be shown.`);
  }
  if (ids.length !== info.width * info.height) {
    throw new FormatError(`A mask of ${info.width}×${info.height} pixels came with ${ids.length} bytes.`);
  }
  return ids;
}
