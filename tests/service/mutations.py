"""Bytes that are nearly right: what a broken or hostile client sends."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from random import Random

import numpy as np

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1)


def mutate(data: bytes, rng: Random) -> bytes:
    """One to four small damages."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            return rng.randbytes(rng.randint(0, 8))
        at = rng.randrange(len(changed))
        match rng.randrange(8):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.randrange(256)
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + rng.randint(1, 8)]
            case 4:
                changed[at:at] = rng.randbytes(rng.randint(1, 8))
            case 5:
                width = rng.choice((1, 2, 4, 8))
                value = rng.choice(EDGES) & (256**width - 1)
                changed[at : at + width] = value.to_bytes(width, "little")
            case 6:
                other = rng.randrange(len(changed))
                size = rng.randint(1, 16)
                changed[at : at + size] = changed[other : other + size]
            case _:
                changed += changed[: rng.randint(1, 64)]
    return bytes(changed)


def mutants(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """So many damaged copies; headers, which are short, are hit as often as all the rest."""
    rng = Random(seed)
    for _ in range(count):
        data = rng.choice(seeds)
        if rng.random() < 0.5:
            yield mutate(data[:48], rng) + data[48:]
        else:
            yield mutate(data, rng)


def framed(payload: bytes, kind: int, sequence: int) -> bytes:
    """A WebSocket message whose header fits its payload, whatever that is."""
    return struct.pack("<BBHIQ", kind, 0, 0, len(payload), sequence) + payload


def damaged_recording(data: bytes, seed: int) -> bytes:
    """An AEDAT4 file that is cut, or with bytes changed: anywhere, in the head, in the index at its end, in a block."""
    rng = np.random.default_rng(seed)
    if seed % 5 == 0:
        return data[: rng.integers(1, len(data))]
    changed = bytearray(data)
    if seed % 5 == 4:
        at = int(rng.integers(14, len(changed) - 4096))
        changed[at : at + 2048] = rng.bytes(2048)
        return bytes(changed)
    low, high = [(14, len(changed)), (14, 4000), (len(changed) - 1000, len(changed))][seed % 5 - 1]
    for at in rng.integers(low, high, rng.integers(1, 12)):
        changed[at] = rng.integers(256)
    return bytes(changed)
