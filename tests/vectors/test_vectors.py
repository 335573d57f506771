"""The test vectors: what the code writes is what the file holds, and what the file holds is read as it says."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.events import SensorSize
from service.wire import messages
from service.wire.events import decode_packet
from service.wire.frames import decode_frame
from service.wire.masks import MaskEncoding, decode_coco_rle, decode_mask
from tests.vectors.make import PATH, as_text, hex_dump

VECTORS: dict[str, dict[str, Any]] = {each["name"]: each for each in json.loads(PATH.read_text())}
PROTOCOL = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"


def bytes_of(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


def test_the_file_is_what_the_code_writes() -> None:
    """But for what a library may compress in another way; what that unpacks to is tested below."""
    written = {each["name"]: each for each in json.loads(as_text())}
    assert set(written) == set(VECTORS)
    for name, vector in VECTORS.items():
        if name in ("mask, zlib", "mask, png"):
            assert written[name]["holds"] == vector["holds"]
        else:
            assert written[name] == vector


@pytest.mark.parametrize("name", ["event packet, 8-byte records", "event packet, 13-byte records"])
def test_packets_hold_the_events_that_they_say(name: str) -> None:
    holds = VECTORS[name]["holds"]
    packet = decode_packet(bytes_of(name))
    assert (packet.seq, packet.sensor) == (holds["seq"], SensorSize(holds["width"], holds["height"]))
    assert {column: getattr(packet.events, column).tolist() for column in ("t", "x", "y", "p")} == holds["events"]


def test_a_packet_by_hand() -> None:
    """Independent of the codec: header and records as docs/protocol.md has them."""
    expected = struct.pack("<4sHHQqHHI", b"SEV1", 0, 0, 7, 1_000_000, 346, 260, 3)
    for t, x, y, p in ((1_000_000, 12, 7, 1), (1_000_150, 345, 259, 0), (1_033_400, 0, 0, 1)):
        expected += struct.pack("<IHH", t - 1_000_000, x, y | p << 15)
    assert bytes_of("event packet, 8-byte records") == expected


@pytest.mark.parametrize("name", [name for name, v in VECTORS.items() if "type" in v["holds"]])
def test_messages_are_framed_as_they_say(name: str) -> None:
    holds = VECTORS[name]["holds"]
    data = bytes_of(name)
    message = messages.decode_message(data)
    assert (message.type, message.type.name, message.sequence) == (holds["type"], name, holds["sequence"])
    assert data[:16] == struct.pack("<BBHIQ", holds["type"], 0, 0, len(data) - 16, holds["sequence"])
    match name:
        case "EVENTS":
            assert bytes(message.payload) == bytes_of(holds["payload"])
        case "ADVANCE":
            assert messages.decode_advance(message.payload) == holds["until_us"]
        case "FRAME":
            frame = decode_frame(message.payload, SensorSize(holds["width"], holds["height"]))
            assert (frame.t_us, frame.grey.tolist()) == (holds["t_us"], holds["grey"])
        case "RESULT":
            metadata, mask = messages.decode_result(message.payload)
            assert metadata == holds["metadata"]
            assert decode_mask(mask, MaskEncoding(holds["mask_encoding"]), 3, 2).tolist() == holds["mask"]
        case "ACK":
            ack = messages.decode_ack(message.payload)
            assert (ack.acked, ack.credit) == (holds["acked"], holds["credit"])
        case "GOAWAY":
            assert messages.decode_goaway(message.payload) == holds["reason"]
        case _:
            assert len(message.payload) == 0


@pytest.mark.parametrize("encoding", ["raw", "zlib", "png"])
def test_masks_unpack_to_what_they_say(encoding: str) -> None:
    vector = VECTORS[f"mask, {encoding}"]
    mask = decode_mask(bytes.fromhex(vector["hex"]), MaskEncoding(encoding), 3, 2)
    assert mask.tolist() == vector["holds"]["mask"]


def test_run_lengths_unpack_to_what_they_say() -> None:
    vector = VECTORS["mask, coco-rle"]
    assert np.array_equal(decode_coco_rle(vector["rles"], 3, 2), np.array(vector["holds"]["mask"], np.uint8))


def test_the_dump_in_the_protocol_is_that_of_the_vector() -> None:
    assert hex_dump(bytes_of("EVENTS")) in PROTOCOL.read_text()
