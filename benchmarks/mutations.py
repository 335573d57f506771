"""Damaged AEDAT4 files through the reader: does any of them crash, hang or take down this process?

    python -m benchmarks.mutations --files 10000 --json docs/results/mutations.json

Each file is read as the service reads an upload: by a worker process of its own, with bounded memory and processor
time. The file is read, or refused with an ``Aedat4Error``; any other exception ends the run. dv-processing spins on
many damaged packets, so that a file may take its worker's whole time; the limits are the service's unless ``--quick``
shortens them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from models.machine import describe_machine
from service.settings import PACKAGE
from service.wire import aedat4
from tests.service.mutations import damaged_recording


def outcome(data: bytes, seed: int) -> str:
    """What becomes of one damaged copy, in words that many share.

    Raises
    ------
    Exception
        Anything that the reader does not promise.
    """
    try:
        events, sensor = aedat4.read_aedat4(damaged_recording(data, seed))
    except aedat4.Aedat4Error as error:
        return re.sub(r"\d+", "N", str(error))[:70]
    if len(events) and (
        events.x.max() >= sensor.width or events.y.max() >= sensor.height or np.any(np.diff(events.t) < 0)
    ):
        raise AssertionError(f"seed {seed}: events that cannot be have been let through")
    return "read"


def open_files() -> int:
    """File descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--recording", type=Path, default=PACKAGE / "demo" / "street.aedat4")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="shorter limits of processor time, as in the tests")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        aedat4.OPEN_CPU_SECONDS, aedat4.PACKET_CPU_SECONDS = 0.1, 0.05
    data, begun, before = arguments.recording.read_bytes(), time.monotonic(), open_files()
    with ThreadPoolExecutor(arguments.workers) as pool:
        found = Counter(pool.map(lambda seed: outcome(data, seed), range(arguments.files)))
    report = {
        "machine": describe_machine(),
        "recording": arguments.recording.name,
        "files": arguments.files,
        "quick": arguments.quick,
        "seconds": round(time.monotonic() - begun, 1),
        "read": found.pop("read", 0),
        "refused": sum(found.values()),
        "reasons": dict(found.most_common()),
        "leaked_files": open_files() - before,
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
