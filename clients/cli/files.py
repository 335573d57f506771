"""``spikeseg convert``, ``record`` and ``info``: recordings without the service."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clients.cli.options import POSITIVE, SOURCE_HELP, opened, source_options
from clients.errors import OutputError
from clients.sources import Source, play
from clients.writers import FORMATS, open_writer
from models.events import EventBatch, SensorSize

PathType: Any = click.Path(path_type=Path)
_CAN_WRITE = "FILE ends in one of: " + ", ".join(f"{end} ({name})" for end, name in FORMATS.items()) + "."


@dataclass
class Summary:
    """What has passed by."""

    events: int = 0
    on: int = 0
    first_us: int = 0
    last_us: int = 0

    def watch(self, batches: Iterable[EventBatch]) -> Iterable[EventBatch]:
        """Pass batches on, and count them."""
        for batch in batches:
            if len(batch):
                self.first_us = self.first_us if self.events else int(batch.t[0])
                self.last_us = int(batch.t[-1])
                self.events += len(batch)
                self.on += int(batch.p.sum())
            yield batch

    @property
    def seconds(self) -> float:
        """Time from the first event to the last."""
        return (self.last_us - self.first_us) / 1e6


@click.command(epilog=f"{SOURCE_HELP} {_CAN_WRITE}", short_help="Write events in another format; cut out a part.")
@click.argument("source")
@click.argument("file", type=PathType)
@source_options
def convert(
    source: str,
    file: Path,
    sensor: SensorSize | None,
    topic: str | None,
    skip_us: int | None,
    duration_us: int | None,
) -> None:
    """Write the events of SOURCE to FILE, in the format that its name says."""
    with opened(source, sensor, topic) as events:
        _copy(events, file, skip_us, duration_us)


@click.command(epilog=f"{SOURCE_HELP} {_CAN_WRITE}", short_help="Record a camera to a file until Ctrl-C.")
@click.argument("source")
@click.argument("file", type=PathType)
@click.option("--duration", "seconds", type=POSITIVE, help="End after so many seconds.")
def record(source: str, file: Path, seconds: float | None) -> None:
    """Record a camera, network stream or webcam to FILE until Ctrl-C."""
    with opened(source, None, None) as events:
        duration_us = None if seconds is None else max(1, round(seconds * 1e6))
        _copy(events, file, None, duration_us, endless=True)


@click.command(epilog=SOURCE_HELP, short_help="Say what a source is; check every event.")
@click.argument("source")
@source_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def info(
    source: str,
    sensor: SensorSize | None,
    topic: str | None,
    skip_us: int | None,
    duration_us: int | None,
    as_json: bool,
) -> None:
    """Say what SOURCE is, and read it through: every event is checked."""
    summary = Summary()
    with opened(source, sensor, topic) as events:
        for _ in summary.watch(play(events, skip_us=skip_us or 0, duration_us=duration_us)):
            pass
        about = {
            "source": events.name,
            "format": events.format,
            "width": events.sensor.width,
            "height": events.sensor.height,
            "events": summary.events,
            "on_share": summary.on / summary.events if summary.events else None,
            "first_us": summary.first_us if summary.events else None,
            "last_us": summary.last_us if summary.events else None,
        }
    if as_json:
        print(json.dumps(about))
        return
    print(f"source         {events.name}")
    print(f"format         {events.format}")
    print(f"sensor         {events.sensor}")
    print(f"events         {summary.events}")
    if summary.events:
        print(f"time           {summary.first_us} to {summary.last_us} µs, {summary.seconds:.6f} s")
        print(f"ON             {summary.on / summary.events:.2%}")
    if summary.seconds:
        print(f"rate           {summary.events / summary.seconds:.4g} events per second")


def _copy(source: Source, file: Path, skip_us: int | None, duration_us: int | None, *, endless: bool = False) -> None:
    if source.name == str(file):
        raise OutputError(f"{file} would be written over itself")
    summary = Summary()
    batches = play(source, skip_us=skip_us or 0, duration_us=duration_us)
    with open_writer(file, source.sensor) as writer:
        try:
            for batch in summary.watch(batches):
                writer.write(batch)
        except KeyboardInterrupt:
            if not endless:
                raise
    print(f"{file}: {summary.events} events of {summary.seconds:.6f} s")
    if writer.base_us:
        print(f"The format holds no times as late as these: {writer.base_us} µs were taken off each.")
