"""Labels of a vehicle's bridge over Zenoh: ``python -m clients.examples.zenoh_labels [KEY [MASKS [ENDPOINT]]]``.

Prints a line for each mask, and ends after so many (0: never). ENDPOINT, as ``tcp/127.0.0.1:7447``, is where this
program can be reached; without it, participants find each other. The bridge runs beside it::

    python -m clients.vehicle drive.aedat4 --zenoh car
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import zenoh


def main(key: str = "car", masks: str = "0", endpoint: str = "") -> None:
    """Print what is seen."""
    config = zenoh.Config()
    if endpoint:
        config.insert_json5("listen/endpoints", json.dumps([endpoint]))
        config.insert_json5("scouting/multicast/enabled", "false")
    arrived: queue.Queue[Any] = queue.Queue()
    names: dict[int, str] = {}
    left = int(masks) or -1
    with zenoh.open(config) as session:
        session.declare_subscriber(f"{key}/labels", arrived.put)
        while left:
            sample = arrived.get()
            about = json.loads(bytes(sample.attachment))
            if not names:
                # Asked for, so that it does not matter who was there first.
                for reply in session.get(f"{key}/info"):
                    if reply.ok:
                        names = {each["id"]: each["name"] for each in json.loads(bytes(reply.ok.payload))["classes"]}
            labels = bytes(sample.payload)  # a class id for each pixel, row by row
            shares = {name: labels.count(number) / len(labels) for number, name in names.items()}
            seen = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005)
            print(f"{about['t_end'] / 1e6:.3f} s  {about['width']}x{about['height']}  {seen}")
            left -= 1


if __name__ == "__main__":
    main(*sys.argv[1:])
