"""Damaged recordings and pictures through their readers: does any of them crash, hang or take down the process?

    python -m benchmarks.mutations --files 10000 --json docs/results/mutations.json

So many damaged copies of each kind of file: AEDAT4 as the service reads an upload, by a worker process of its own with
bounded memory and processor time; PNG, JPEG and WebP as the service reads a frame; Prophesee's RAW (EVT 2.0, EVT 3.0)
and DAT as the clients read them. Each is read, or refused with the reader's own error; any other exception, a process
that dies, or events that cannot be end the run. dv-processing spins on many damaged packets, so that an AEDAT4 file may
take its worker's whole time; the limits are the service's unless ``--quick`` shortens them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from clients.errors import SourceError
from clients.sources import open_source
from clients.writers import open_writer
from models.events import EventBatch, SensorSize
from models.machine import describe_machine
from service.settings import PACKAGE
from service.wire import aedat4
from service.wire.errors import FrameError
from service.wire.frames import decode_grey
from tests.service.harness import random_events
from tests.service.mutations import damaged_recording, mutate

SENSOR = SensorSize(64, 48)
READ = "read"
Outcome = Callable[[bytes, int], str]
"""What becomes of the copy that is damaged by a seed, in words that many share."""


def check(events: EventBatch, sensor: SensorSize) -> None:
    """Raise AssertionError if there are events that cannot be."""
    if len(events) and (
        events.x.max() >= sensor.width or events.y.max() >= sensor.height or np.any(np.diff(events.t) < 0)
    ):
        raise AssertionError("events that cannot be have been let through")


def in_short(error: Exception) -> str:
    """A message without what differs from file to file."""
    return re.sub(r"\d+", "N", re.sub(r"\S*/\S+", "FILE", str(error)))[:70]


def read_upload(data: bytes, seed: int) -> str:
    """AEDAT4, as the service reads it."""
    try:
        check(*aedat4.read_aedat4(damaged_recording(data, seed)))
    except aedat4.Aedat4Error as error:
        return in_short(error)
    return READ


def read_picture(data: bytes, seed: int) -> str:
    """A frame's picture, as the service reads it."""
    try:
        decode_grey(mutate(data, Random(seed)), SENSOR)
    except FrameError as error:
        return in_short(error)
    return READ


def read_recording(data: bytes, seed: int, *, suffix: str) -> str:
    """A recording, as the clients read it."""
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(mutate(data, Random(seed)))
        file.flush()
        try:
            with open_source(file.name, sensor=SENSOR) as source:
                for events in source:
                    check(events, SENSOR)
        except SourceError as error:
            return in_short(error)
    return READ


def pictures() -> dict[str, bytes]:
    """A picture in each format."""
    grey = np.random.default_rng(0).integers(0, 256, (SENSOR.height, SENSOR.width), dtype=np.uint8)
    made = {}
    for kind in ("PNG", "JPEG", "WebP"):
        file = BytesIO()
        Image.fromarray(grey).save(file, kind)
        made[kind] = file.getvalue()
    return made


def recordings() -> dict[str, tuple[str, bytes]]:
    """A recording in each of Prophesee's formats, and its suffix."""
    events = random_events(0, windows=2, per_window=400, sensor=SENSOR)
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, name in (("EVT 2.0", "events.evt2.raw"), ("EVT 3.0", "events.raw"), ("DAT", "events.dat")):
            path = Path(folder) / name
            with open_writer(path, SENSOR) as writer:
                writer.write(events)
            made[kind] = path.suffix, path.read_bytes()
    return made


def open_files() -> int:
    """File descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def run(pool: Executor, outcome: Outcome, data: bytes, files: int) -> dict[str, Any]:
    """What became of so many damaged copies."""
    begun = time.monotonic()
    found = Counter(pool.map(partial(outcome, data), range(files)))
    read = found.pop(READ, 0)
    return {
        "files": files,
        "seconds": round(time.monotonic() - begun, 1),
        "read": read,
        "refused": sum(found.values()),
        "reasons": dict(found.most_common()),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="of each kind")
    parser.add_argument("--recording", type=Path, default=PACKAGE / "demo" / "street.aedat4")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="shorter limits of processor time, as in the tests")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        aedat4.OPEN_CPU_SECONDS, aedat4.PACKET_CPU_SECONDS = 0.1, 0.05
    kinds: dict[str, dict[str, Any]] = {}
    # A process that is killed by what it reads ends the run.
    with ProcessPoolExecutor(arguments.workers) as processes:
        for kind, picture in pictures().items():
            kinds[kind] = run(processes, read_picture, picture, arguments.files)
        for kind, (suffix, recording) in recordings().items():
            kinds[kind] = run(processes, partial(read_recording, suffix=suffix), recording, arguments.files)
    before = open_files()
    with ThreadPoolExecutor(arguments.workers) as threads:
        kinds["AEDAT4"] = run(threads, read_upload, arguments.recording.read_bytes(), arguments.files)
    report = {
        "machine": describe_machine(),
        "quick": arguments.quick,
        "kinds": kinds,
        "leaked_files": open_files() - before,
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
