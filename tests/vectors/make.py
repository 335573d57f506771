"""Write the test vectors of the wire protocol: ``python -m tests.vectors.make``.

Each vector is a name, what it holds in words that any language can build anew, and its bytes in hex. Compressed bytes
(zlib, PNG) may differ between libraries: what they unpack to may not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from models.classes import DDD17_CLASSES
from models.events import EventBatch, SensorSize
from service.wire import messages
from service.wire.events import EventEncoding, encode_packet
from service.wire.frames import encode_frame
from service.wire.masks import MaskEncoding, encode_coco_rle, encode_mask
from service.wire.messages import MessageType, encode_message

PATH = Path(__file__).with_name("vectors.json")
SENSOR = SensorSize(346, 260)
EVENTS = {"t": [1_000_000, 1_000_150, 1_033_400], "x": [12, 345, 0], "y": [7, 259, 0], "p": [1, 0, 1]}
MASK = [[0, 0, 1], [2, 255, 5]]
GREY = [[0, 64, 128], [192, 255, 1]]
RESULT = {"window": 3, "t_start": 99_999, "t_end": 133_332, "events": 2}


def events() -> EventBatch:
    """The events of the vectors."""
    return EventBatch(
        np.array(EVENTS["t"], np.int64),
        np.array(EVENTS["x"], np.uint16),
        np.array(EVENTS["y"], np.uint16),
        np.array(EVENTS["p"], np.uint8),
    )


def vectors() -> list[dict[str, Any]]:
    """Every vector."""
    mask, grey = np.array(MASK, np.uint8), np.array(GREY, np.uint8)
    compact = encode_packet(events(), SENSOR, seq=7)
    wide = encode_packet(events(), SENSOR, seq=7, encoding=EventEncoding.WIDE)
    raw = encode_mask(mask, MaskEncoding.RAW, DDD17_CLASSES)
    packet = {"seq": 7, "width": 346, "height": 260, "events": EVENTS}
    message: list[tuple[str, dict[str, Any], bytes]] = [
        ("event packet, 8-byte records", packet, compact),
        ("event packet, 13-byte records", packet, wide),
        (
            "EVENTS",
            {"type": 1, "sequence": 1, "payload": "event packet, 8-byte records"},
            messages.encode_events(1, compact),
        ),
        ("ADVANCE", {"type": 2, "sequence": 2, "until_us": 1_050_000}, messages.encode_advance(2, 1_050_000)),
        ("RESET", {"type": 3, "sequence": 3}, messages.encode_reset(3)),
        ("END", {"type": 4, "sequence": 4}, messages.encode_end(4)),
        ("FLUSH", {"type": 5, "sequence": 5}, messages.encode_flush(5)),
        (
            "FRAME",
            {"type": 6, "sequence": 6, "t_us": 40_000, "width": 3, "height": 2, "encoding": 0, "grey": GREY},
            encode_message(MessageType.FRAME, 6, encode_frame(40_000, grey)),
        ),
        (
            "RESULT",
            {"type": 129, "sequence": 3, "metadata": RESULT, "mask": MASK, "mask_encoding": "raw"},
            messages.encode_result(3, RESULT, raw),
        ),
        ("ACK", {"type": 130, "sequence": 6, "acked": 5, "credit": 16}, messages.encode_ack(6, 5, 16)),
        (
            "GOAWAY",
            {"type": 131, "sequence": 6, "reason": "the server is about to stop"},
            messages.encode_goaway(6, "the server is about to stop"),
        ),
    ]
    for encoding in (MaskEncoding.RAW, MaskEncoding.ZLIB, MaskEncoding.PNG):
        about = {"encoding": str(encoding), "width": 3, "height": 2, "mask": MASK}
        message.append((f"mask, {encoding}", about, encode_mask(mask, encoding, DDD17_CLASSES)))
    found = [{"name": name, "holds": holds, "hex": data.hex()} for name, holds, data in message]
    rles = encode_coco_rle(mask, [c.id for c in DDD17_CLASSES])
    found.append({"name": "mask, coco-rle", "holds": {"width": 3, "height": 2, "mask": MASK}, "rles": rles})
    return found


def as_text() -> str:
    """What the file holds."""
    return json.dumps(vectors(), indent=1) + "\n"


def hex_dump(data: bytes) -> str:
    """Sixteen bytes a line, with their offset."""
    lines = (data[at : at + 16] for at in range(0, len(data), 16))
    return "\n".join(f"{16 * k:04x}  {line.hex(' ', 1)}" for k, line in enumerate(lines))


if __name__ == "__main__":
    PATH.write_text(as_text())
    print(PATH)
