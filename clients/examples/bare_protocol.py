"""The wire protocol without the SDK: ``python -m clients.examples.bare_protocol [URL]``.

A bright bar crosses a small sensor. Everything that is sent and read stands here, byte by byte, as docs/protocol.md has
it: a template for other languages, which need a WebSocket, JSON and zlib.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator

from websockets.sync.client import ClientConnection, connect

WIDTH, HEIGHT = 64, 48
WINDOW_US = 20_000
WINDOWS = 8
EVENTS, END = 1, 4
RESULT, ACK = 129, 130
# type, flags, reserved, length, sequence
HEADER = struct.Struct("<BBHIQ")
# magic, encoding, reserved, seq, time_base, width, height, count
PACKET = struct.Struct("<4sHHQqHHI")
# dt, x, y with the polarity in bit 15
RECORD = struct.Struct("<IHH")


def message(kind: int, sequence: int, payload: bytes = b"") -> bytes:
    """A message of the client's."""
    return HEADER.pack(kind, 0, 0, len(payload), sequence) + payload


def bar(window: int) -> bytes:
    """A window's event packet: the bar's right edge turns pixels ON, its left edge turns them OFF."""
    begin, records = window * WINDOW_US, []
    for step in range(4):
        right = 4 * window + step + 8
        for y in range(HEIGHT):
            dt = step * WINDOW_US // 4 + y
            records.append(RECORD.pack(dt, right, y | 1 << 15))
            records.append(RECORD.pack(dt, right - 8, y))
    return PACKET.pack(b"SEV1", 0, 0, window, begin, WIDTH, HEIGHT, len(records)) + b"".join(records)


def answers(socket: ClientConnection, sequence: int) -> Iterator[tuple[dict[str, object], bytes]]:
    """What is answered until message ``sequence`` is acknowledged: metadata, and the mask's class ids row by row."""
    while True:
        data = socket.recv()
        if isinstance(data, str):  # {"type": "error", …}; the connection is closed after it
            raise SystemExit(data)
        kind, _, _, length, number = HEADER.unpack_from(data)
        payload = data[HEADER.size : HEADER.size + length]
        if kind == ACK and number >= sequence:
            return
        if kind == RESULT:
            [size] = struct.unpack_from("<I", payload)
            metadata = json.loads(payload[4 : 4 + size])
            yield metadata, zlib.decompress(payload[4 + size :])


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Stream the bar and print a line for each window."""
    with connect(url.replace("http", "ws", 1) + "/v1/stream", max_size=None) as socket:
        hello = {"sensor": {"width": WIDTH, "height": HEIGHT}, "window": {"us": WINDOW_US}, "mask": "zlib"}
        socket.send(json.dumps({"type": "hello", "version": 1, **hello}))
        welcome = json.loads(socket.recv())
        if welcome["type"] == "error":
            raise SystemExit(f"{welcome['title']}: {welcome['detail']}")
        names = {each["id"]: each["name"] for each in welcome["classes"]}
        for sequence in range(1, WINDOWS + 2):
            last = sequence > WINDOWS
            socket.send(message(END, sequence) if last else message(EVENTS, sequence, bar(sequence - 1)))
            for metadata, mask in answers(socket, sequence):
                [(most, pixels)] = Counter(mask).most_common(1)
                share = pixels / len(mask)
                print(f"window {metadata['window']}: {metadata['events']} events, {names[most]} {share:.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
