"""``spikeseg serve``, ``models``, ``segment`` and ``bench``: the service itself."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from clients.async_client import AsyncClient
from clients.cli.options import (
    POSITIVE,
    SENSOR,
    SOURCE_HELP,
    Service,
    network_options,
    opened,
    service_options,
    source_options,
)
from clients.errors import MissingExtraError, OutputError, SourceError
from clients.outputs import Report
from clients.pictures import media_type
from clients.results import Result
from clients.sources import play
from models.events import EventBatch, SensorSize
from service.wire.errors import FrameError
from service.wire.masks import MaskEncoding, encode_mask

PathType: Any = click.Path(path_type=Path)
_DEFAULT_SENSOR = SensorSize(346, 260)
_BARS_RATE_HZ = 1_000_000


@click.command(short_help="Run the service on this machine.")
@click.option("--host", envvar="SPIKESEG_HOST", default="127.0.0.1", show_default=True, help="Interface to listen on.")
@click.option(
    "--port",
    envvar="SPIKESEG_PORT",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--cores", envvar="SPIKESEG_CORES", type=click.IntRange(1), help="Processor cores to use; all if not given."
)
def serve(host: str, port: int, cores: int | None) -> None:
    """Run the service on this machine; print its address once it listens.

    Every other setting is an environment variable beginning with SPIKESEG_, see service/settings.py.
    """
    missing = [name for name in ("fastapi", "uvicorn", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"the service needs {', '.join(missing)}, which is not installed: pip install 'spikeseg[serve]'"
        )
    settings = {"SPIKESEG_HOST": host, "SPIKESEG_PORT": str(port)}
    if cores is not None:
        settings["SPIKESEG_CORES"] = str(cores)
    sys.stdout.flush()
    # In this very process, so that signals reach the service itself.
    os.execve(sys.executable, [sys.executable, "-m", "service"], {**os.environ, **settings})  # nosec B606


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, with all that is known of each.")
@service_options
def models(as_json: bool, service: Service) -> None:
    """List the networks that the service offers."""
    with service.client() as client:
        offered = client.models()
    if as_json:
        listed = [
            {
                "name": model.name,
                "default": model.default,
                "classes": [item.name for item in model.classes],
                "window_us": model.window_us,
                "longest_side": model.longest_side,
                "card": dict(model.card),
            }
            for model in offered
        ]
        print(json.dumps(listed))
        return
    for model in offered:
        note = " (default)" if model.default else ""
        names = ", ".join(item.name for item in model.classes)
        print(f"{model.name}{note}: windows of {model.window_us / 1e3:g} ms; {names}")


@click.command(
    epilog=f"{SOURCE_HELP} Or a picture: PNG, JPEG, WebP.", short_help="Segment a short recording or a picture."
)
@click.argument("source", metavar="FILE")
@click.option("--out", type=PathType, default=Path("mask.png"), show_default=True, help="Where to put the indexed PNG.")
@network_options
@source_options
@service_options
def segment(
    source: str,
    out: Path,
    model: str | None,
    window_us: int | None,
    sensor: SensorSize | None,
    topic: str | None,
    skip_us: int | None,
    duration_us: int | None,
    service: Service,
) -> None:
    """Segment a short recording in one request; save the mask of its last window.

    A picture (PNG, JPEG, WebP) goes through a network of frames instead.
    """
    picture = _picture(source)
    if picture is not None:
        if any(given is not None for given in (window_us, sensor, topic, skip_us, duration_us)):
            raise click.UsageError("options of events do not go with a picture.")
        with service.client() as client:
            found = client.segment_picture(picture, model=model)
        _save(out, found.png)
        print(f"{out}: {found.mask.shape[1]}x{found.mask.shape[0]}, {len(np.unique(found.mask))} classes")
        print(f"firing rate    {found.activity.firing_rate:.4f} spikes per neuron and step")
        print(f"latency        {found.latency.total_ms:.1f} ms (in the service)")
        return
    with opened(source, sensor, topic) as events, service.client() as client:
        if events.live:
            raise SourceError(f"{source} has no end: use spikeseg stream")
        batches = list(play(events, skip_us=skip_us or 0, duration_us=duration_us))
        result = client.segment(EventBatch.concatenate(batches), events.sensor, model=model, window_us=window_us)
        offered = {item.name if model else item.default: item for item in client.models()}
    classes = offered[model or True].classes
    _save(out, encode_mask(result.mask, MaskEncoding.PNG, classes))
    print(f"{out}: window {result.window}, {result.t_start} to {result.t_end} µs")
    report = Report(classes)
    report.add(result)
    for line in report.lines():
        if line.startswith(("class share", "firing rate", "latency")):
            print(line)


def _picture(source: str) -> bytes | None:
    """The file's bytes if it is a picture; what else it is, or why it cannot be read, is for others to say."""
    path = Path(source)
    try:
        with path.open("rb") as file:
            media_type(file.read(16))
        return path.read_bytes()
    except (OSError, FrameError):
        return None


def _save(out: Path, data: bytes) -> None:
    try:
        out.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{out}: {error.strerror or error}") from error


@click.command(short_help="Measure latency and rate of a service.")
@click.argument("url", envvar="SPIKESEG_URL")
@click.option("--streams", type=click.IntRange(1, 1000), default=1, show_default=True, help="So many at once.")
@click.option("--seconds", type=POSITIVE, default=10.0, show_default=True, help="How long.")
@click.option("--source", help="A recording to play over and over; moving bars if not given.")
@click.option("--sensor", type=SENSOR, default="346x260", show_default=True, help="Size of the sensor of moving bars.")
@network_options
@click.option("--token", envvar="SPIKESEG_TOKEN", show_envvar=True, help="Bearer token, if the service asks.")
@click.option("--ca", metavar="FILE", help="Certificates to trust, PEM.")
@click.option("--insecure", is_flag=True, help="Do not check the service's certificate.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def bench(
    url: str,
    streams: int,
    seconds: float,
    source: str | None,
    sensor: SensorSize,
    model: str | None,
    window_us: int | None,
    token: str | None,
    ca: str | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Measure the service at URL: streams as fast as it answers them.

    Latencies are the service's own, from a message's arrival to the mask; rates are what this machine saw.
    """
    if source is None:
        size, events = sensor, moving_bars(sensor)
    else:
        with opened(source, sensor, None) as recording:
            size, events = recording.sensor, EventBatch.concatenate(list(play(recording)))
        if not len(events):
            raise SourceError(f"{source} holds no events")
    service = Service(url, token, ca, insecure, 60.0)
    begun = time.monotonic()
    results = asyncio.run(_all_streams(service, events, size, streams, seconds, model, window_us))
    about = _figures(results, time.monotonic() - begun, streams)
    if as_json:
        print(json.dumps(about))
        return
    for name, value in about.items():
        print(f"{name:<18} {value:.4g}" if isinstance(value, float) else f"{name:<18} {value}")


async def _all_streams(
    service: Service,
    events: EventBatch,
    sensor: SensorSize,
    streams: int,
    seconds: float,
    model: str | None,
    window_us: int | None,
) -> list[Result]:
    async with AsyncClient(service.url, timeout=service.timeout, token=service.token, verify=service.verify) as client:

        async def one() -> list[Result]:
            source = _for_so_long(events, seconds)
            return [result async for result in client.stream(source, sensor, model=model, window_us=window_us)]

        parts = await asyncio.gather(*(one() for _ in range(streams)))
    return [result for part in parts for result in part]


def _for_so_long(events: EventBatch, seconds: float) -> Iterator[EventBatch]:
    """The events again and again, each time later, until the time is up."""
    end = time.monotonic() + seconds
    shift, span = 0, int(events.t[-1] - events.t[0]) + 1
    chunk_us = 10_000
    edges = np.searchsorted(events.t, np.arange(int(events.t[0]), int(events.t[-1]) + chunk_us, chunk_us)).tolist()
    while True:
        for first, last in zip(edges, [*edges[1:], len(events)], strict=True):
            if time.monotonic() >= end:
                return
            part = events[first:last]
            yield EventBatch(part.t + shift, part.x, part.y, part.p)
        shift += span


def _figures(results: list[Result], seconds: float, streams: int) -> dict[str, int | float]:
    about: dict[str, int | float] = {"streams": streams, "windows": len(results), "seconds": round(seconds, 3)}
    if not results:
        return about
    about["windows_per_s"] = len(results) / seconds
    about["events_per_s"] = sum(result.events for result in results) / seconds
    for part in ("total", "compute", "wait"):
        values = [getattr(result.latency, f"{part}_ms") for result in results]
        for percent, value in zip((50, 95, 99), np.percentile(values, [50, 95, 99]), strict=True):
            about[f"{part}_p{percent}_ms"] = round(float(value), 3)
    return about


def moving_bars(sensor: SensorSize, *, duration_us: int = 1_000_000) -> EventBatch:
    """Upright bars that move to the right, ON at their front and OFF at their back, about a million events a second.

    Parameters
    ----------
    sensor : SensorSize
    duration_us : int
        Microseconds.
    """
    distance = 32
    bars = np.arange(0, sensor.width, distance)
    per_step = 2 * len(bars) * sensor.height
    steps = max(1, duration_us * _BARS_RATE_HZ // 1_000_000 // per_step)
    step, bar, edge, y = np.meshgrid(np.arange(steps), bars, np.array([12, 0]), np.arange(sensor.height), indexing="ij")
    t = step * duration_us // steps
    return EventBatch(
        t.ravel().astype(np.int64),
        ((bar + edge + step) % sensor.width).ravel().astype(np.uint16),
        y.ravel().astype(np.uint16),
        (edge > 0).ravel().astype(np.uint8),
    )
