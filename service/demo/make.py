"""The bundled demo recording: a simulated drive down the procedural street, with ground truth.

    python -m service.demo.make --out service/demo

writes ``street.aedat4`` (events), ``street_labels.npz`` (class ids at the ends of windows) and ``street.json`` (how
they were made). The same configuration gives the same events; between processors they may differ in the last bit of
a pixel, and so here and there by an event.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.classes import DDD17_CLASSES, UNLABELLED
from models.emulator import EmulatorConfig, emulate, initial
from models.events import EventBatch, SensorSize
from models.scene import Camera, Street, StreetConfig
from service.wire.aedat4 import write_aedat4

SENSOR = SensorSize(346, 260)
SENSOR_SETTINGS = EmulatorConfig(contrast_on=0.3, contrast_off=0.3, noise_rate_hz=0.05)
EVENTS_NAME, LABELS_NAME, CARD_NAME = "street.aedat4", "street_labels.npz", "street.json"


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """How the demo recording is made.

    Attributes
    ----------
    seed : int
        Of the street and of the sensor's noise.
    duration_us : int
    frame_period_us : int
        Time between rendered pictures; nothing moves much more than a pixel in it.
    readout_us : int
        The sensor is read out, column by column, once in this time. Divides ``frame_period_us``.
    label_period_us : int
        Time between ground-truth masks; the default window of the streaming networks.
    speed : float
        Of the car, in metres per second.
    emulator : EmulatorConfig
    """

    seed: int = 3
    duration_us: int = 5_000_000
    frame_period_us: int = 4_000
    readout_us: int = 250
    label_period_us: int = 33_333
    speed: float = 6.0
    emulator: EmulatorConfig = SENSOR_SETTINGS

    def street(self) -> Street:
        """The scene that is driven through."""
        camera = Camera(width=SENSOR.width, height=SENSOR.height)
        return Street(StreetConfig(seed=self.seed, duration_s=self.duration_us * 1e-6, speed=self.speed, camera=camera))


def demo_events(config: DemoConfig, street: Street, until_us: int | None = None) -> EventBatch:
    """Simulate the recording, or its beginning.

    Parameters
    ----------
    config : DemoConfig
    street : Street
        ``config.street()``.
    until_us : int, optional
        Where to stop; a shorter run gives the beginning of a longer one.

    Returns
    -------
    EventBatch
        Ordered by time; times are multiples of ``config.readout_us``.
    """
    end = config.duration_us if until_us is None else min(until_us, config.duration_us)
    state = initial(street.frame(0.0).grey, config.emulator, seed=config.seed)
    parts = []
    for t_us in range(config.frame_period_us, end + 1, config.frame_period_us):
        events, state = emulate(state, street.frame(t_us * 1e-6).grey, t_us, config.emulator)
        parts.append(read_out(events, config.readout_us))
    return EventBatch.concatenate(parts)


def demo_labels(config: DemoConfig, street: Street) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Ground truth at the end of each window.

    Returns
    -------
    t_us : int64 array, (n,)
    labels : uint8 array, (n, height, width)
        Class ids, 255 where nothing is known.
    """
    times = np.arange(config.label_period_us, config.duration_us + 1, config.label_period_us, dtype=np.int64)
    return times, np.stack([street.frame(t * 1e-6).labels for t in times.tolist()])


def read_out(events: EventBatch, period_us: int) -> EventBatch:
    """Give events the time at which a sensor that is read out column by column would report them.

    Parameters
    ----------
    events : EventBatch
    period_us : int
        Time between two read-outs; event times are rounded up to its multiples.

    Returns
    -------
    EventBatch
        Ordered by time; OFF before ON within a read-out, then by column and row.
    """
    t = -(-events.t // period_us) * period_us
    order = np.lexsort((events.y, events.x, events.p, t))
    return EventBatch(t[order], events.x[order], events.y[order], events.p[order])


def write_demo(out: Path, config: DemoConfig, command: str) -> None:
    """Make the recording and write its three files.

    Parameters
    ----------
    out : path
        Folder; made if it is not there.
    config : DemoConfig
    command : str
        Recorded in the card.
    """
    street = config.street()
    events = demo_events(config, street)
    times, labels = demo_labels(config, street)
    out.mkdir(parents=True, exist_ok=True)
    write_aedat4(out / EVENTS_NAME, events, SENSOR, compression="zstd_high", camera="spikeseg_street")
    np.savez_compressed(out / LABELS_NAME, t_us=times, labels=labels)
    shares = {item.name: round(float((labels == item.id).mean()), 4) for item in DDD17_CLASSES}
    card = {
        "name": "street",
        "what": "a simulated drive down a procedural street; no picture or recording of anyone else's is in it",
        "licence": "Apache-2.0",
        "command": command,
        "config": asdict(config),
        "sensor": asdict(SENSOR),
        "events": len(events),
        "events_per_second": round(len(events) / (config.duration_us * 1e-6)),
        "labels": {"masks": len(times), "unlabelled": UNLABELLED, "pixel_shares": shares},
        "made_with": {"numpy": np.__version__, "opencv": cv2.__version__},
    }
    (out / CARD_NAME).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    default = DemoConfig()
    parser = argparse.ArgumentParser(prog="python -m service.demo.make", description="Make the bundled demo recording.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the street (default: %(default)s)")
    parser.add_argument(
        "--duration-ms", type=int, default=default.duration_us // 1000, help="length (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    config = DemoConfig(seed=options.seed, duration_us=options.duration_ms * 1000)
    command = f"python -m service.demo.make --out {options.out.as_posix()} --seed {config.seed}"
    write_demo(options.out, config, f"{command} --duration-ms {options.duration_ms}")
    for name in (EVENTS_NAME, LABELS_NAME, CARD_NAME):
        print(f"{options.out / name}: {(options.out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
