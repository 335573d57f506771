"""What a session takes: memory in a replica, bytes in the state store, and the way between them.

    python -m benchmarks.sizing --json docs/results/sizing.json

For each streaming network of the zoo and each of some common sensors a session is opened, shown a few windows of random
events, and its checkpoint is encoded as the state store gets it. The tables are written into docs/scaling.md too,
between their markers; ``--check`` only compares, and ends with status 1 if anything is not as it is written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr

from models import zoo
from models.events import SensorSize
from service.api.opening import open_session
from service.api.schemas import SessionFields
from service.api.services import Services
from service.settings import Settings
from service.streaming.answers import Arrival
from service.streaming.checkpoints import Checkpoint, encode_checkpoint
from service.streaming.session import Events
from tests.service.harness import random_events

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "scaling.md"
REPORT = ROOT / "docs" / "results" / "sizing.json"
BEGIN, END = "<!-- benchmarks.sizing: begin -->", "<!-- benchmarks.sizing: end -->"

SENSORS = {
    "DVS128": SensorSize(128, 128),
    "DAVIS240": SensorSize(240, 180),
    "DAVIS346": SensorSize(346, 260),
    "DVXplorer, Gen3": SensorSize(640, 480),
    "Gen4": SensorSize(1280, 720),
}
WINDOWS = 3
WINDOW_US = 50_000
EVENTS_PER_WINDOW = 10_000
LINK_BITS_PER_SECOND = 1e9
# Latencies are numbers with more or fewer digits, and masks differ where a processor rounds differently.
ANSWERS_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Size:
    """What one session takes.

    Attributes
    ----------
    cells : str
        Input grid of the network.
    state_bytes : int
        Its membranes.
    checkpoint_bytes : int
        Its checkpoint without answers and without events of an open window.
    longest_checkpoint_bytes : int
        Its checkpoint with as many answers as are kept.
    """

    cells: str
    state_bytes: int
    checkpoint_bytes: int
    longest_checkpoint_bytes: int


Sizes = Mapping[str, Mapping[str, Size]]


def measure(names: tuple[str, ...]) -> dict[str, dict[str, Size]]:
    """Sizes by model and sensor."""
    return {
        name: {sensor: asyncio.run(measure_session(name, size)) for sensor, size in SENSORS.items()} for name in names
    }


async def measure_session(model: str, sensor: SensorSize) -> Size:
    """Open a session as the service does, show it windows, and encode its checkpoint."""
    settings = Settings(cores=1, default_model=model, store_url=SecretStr(""))
    services = Services.start(settings)
    try:
        fields = SessionFields.model_validate(
            {"model": model, "sensor": {"width": sensor.width, "height": sensor.height}, "window": {"us": WINDOW_US}}
        )
        session, _ = await open_session(services, fields, "session-of-sizing")
        events = random_events(0, windows=WINDOWS, per_window=EVENTS_PER_WINDOW, sensor=sensor, window_us=WINDOW_US)
        command = Events(events, sensor, until_us=WINDOWS * WINDOW_US)
        async with aclosing(session.process([command], session.form, Arrival(0.0))) as answers:
            kept = sum([answer.nbytes async for answer in answers])
        checkpoint = session.snapshot()()
        grid = zoo.load(model).grid(sensor)
        return Size(
            f"{grid.width}x{grid.height}",
            zoo.load(model).initial_state(sensor).nbytes,
            len(encode_checkpoint(with_answers(checkpoint, 0))),
            len(encode_checkpoint(with_answers(checkpoint, settings.replay_bytes // kept))),
        )
    finally:
        await services.close()


def with_answers(checkpoint: Checkpoint, times: int) -> Checkpoint:
    """The checkpoint with its answers so many times."""
    header = {**checkpoint.header, "opened_at": 0.0, "answers": list(checkpoint.header["answers"]) * times}
    arrays = {name: array for name, array in checkpoint.arrays.items() if name != "answers"}
    if times:
        arrays["answers"] = np.tile(checkpoint.arrays["answers"], times)
    return Checkpoint(header, arrays)


def streaming_models() -> tuple[str, ...]:
    """The networks whose membranes are carried from window to window."""
    return tuple(name for name in zoo.names(input="events") if zoo.describe(name).mode == "streaming")


def tables(sizes: Sizes) -> str:
    """The tables of docs/scaling.md."""
    return "\n".join(line for name, by_sensor in sizes.items() for line in table(name, by_sensor))


def table(name: str, sizes: Mapping[str, Size]) -> Iterator[str]:
    """The lines of one model's table, with an empty one at their end."""
    seconds = Settings().checkpoint_seconds
    yield f"`{name}`, a checkpoint every {seconds:g} s:"
    yield ""
    yield (
        "| sensor | cells | state, bytes | sessions / GB | sessions / GiB | checkpoint, MB | with answers, MB | "
        "Mbit/s | sessions / (Gbit/s) |"
    )
    yield "| --- | --- " + "| ---: " * 7 + "|"
    for sensor, size in sizes.items():
        bits = size.longest_checkpoint_bytes * 8 / seconds
        cells = [
            f"{sensor} ({SENSORS[sensor]})",
            size.cells,
            f"{size.state_bytes:,}",
            f"{10**9 // size.state_bytes}",
            f"{2**30 // size.state_bytes}",
            f"{size.checkpoint_bytes / 1e6:.2f}",
            f"{size.longest_checkpoint_bytes / 1e6:.1f}",
            f"{bits / 1e6:.0f}",
            f"{math.floor(LINK_BITS_PER_SECOND / bits)}",
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def with_tables(text: str, sizes: Sizes) -> str:
    """The document with these tables between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(sizes)}\n{END}{after}"


def as_report(sizes: Sizes) -> dict[str, Any]:
    """What the JSON file holds."""
    settings = Settings()
    return {
        "checkpoint_seconds": settings.checkpoint_seconds,
        "replay_bytes": settings.replay_bytes,
        "windows": WINDOWS,
        "events_per_window": EVENTS_PER_WINDOW,
        "models": {name: {s: asdict(size) for s, size in by_sensor.items()} for name, by_sensor in sizes.items()},
    }


def read_report(path: Path) -> dict[str, dict[str, Size]]:
    """The sizes in a JSON file."""
    models = json.loads(path.read_text())["models"]
    return {name: {s: Size(**size) for s, size in by_sensor.items()} for name, by_sensor in models.items()}


def differences(written: Sizes, found: Sizes) -> list[str]:
    """Where two measurements are not the same."""
    if list(written) != list(found):
        return [f"the models are {', '.join(found)}; {', '.join(written)} are written"]
    told = []
    for name, by_sensor in found.items():
        for sensor, size in by_sensor.items():
            old = written[name].get(sensor)
            if old is None or not _same(old, size):
                told.append(f"{name}, {sensor}: {old} is written, {size} was found")
    return told


def _same(left: Size, right: Size) -> bool:
    exact = (left.cells, left.state_bytes, left.checkpoint_bytes) == (
        right.cells,
        right.state_bytes,
        right.checkpoint_bytes,
    )
    return exact and math.isclose(
        left.longest_checkpoint_bytes, right.longest_checkpoint_bytes, rel_tol=ANSWERS_TOLERANCE
    )


def check() -> list[str]:
    """What in the JSON file and the document is not as it is."""
    written = read_report(REPORT)
    told = differences(written, measure(streaming_models()))
    text = DOCUMENT.read_text()
    if with_tables(text, written) != text:
        told.append(f"the tables of {DOCUMENT.name} are not those of {REPORT.name}")
    return told


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the report to this file, and its tables to the document")
    parser.add_argument("--check", action="store_true", help="compare with what is written, write nothing")
    args = parser.parse_args()
    if args.check:
        told = check()
        print("\n".join(told) or "all is as it is written")
        return 1 if told else 0
    sizes = measure(streaming_models())
    print(tables(sizes))
    if args.json:
        args.json.write_text(json.dumps(as_report(sizes), indent=2) + "\n")
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
