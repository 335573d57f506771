"""``python -m clients.replay FILE``: play a recording against the service, save masks, print a report."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from clients.client import Client
from clients.errors import ClientError, RecordingError
from clients.overlay import overlay
from clients.results import Result
from clients.sources import read_chunks
from models.classes import SegmentationClass
from models.events import EventBatch
from service.wire.masks import MaskEncoding, encode_mask

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


@dataclass
class Report:
    """Sums over the results of a replay."""

    classes: tuple[SegmentationClass, ...] = ()
    windows: int = 0
    events: int = 0
    sensor_us: int = 0
    shares: list[tuple[float, ...]] = field(default_factory=list)
    firing_rates: list[float] = field(default_factory=list)
    sops: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Count one window."""
        self.windows += 1
        self.events += result.events
        self.sensor_us += result.t_end - result.t_start
        self.shares.append(result.class_share)
        self.latencies_ms.append(result.latency.total_ms)
        if result.activity is not None:
            self.firing_rates.append(result.activity.firing_rate)
            self.sops.append(result.activity.sops)

    def lines(self) -> Iterator[str]:
        """The report in words; means are over windows, seconds are the sensor's."""
        seconds = self.sensor_us / 1e6
        yield f"windows        {self.windows} ({seconds:.3f} s of the recording)"
        yield f"events         {self.events}"
        if not self.windows:
            return
        for item, share in zip(self.classes, np.mean(self.shares, axis=0), strict=False):
            yield f"class share    {item.name:<18} {share:7.2%}"
        if self.sops:
            yield f"firing rate    {np.mean(self.firing_rates):.4f} spikes per neuron and window"
            yield f"SOPs           {np.mean(self.sops):.4g} per window, {np.sum(self.sops) / seconds:.4g} per second"
        p50, p95 = np.percentile(self.latencies_ms, [50, 95])
        yield f"latency        p50 {p50:.1f} ms, p95 {p95:.1f} ms (in the service)"


class Album:
    """A folder with a mask, and perhaps a picture, for each window.

    Parameters
    ----------
    folder : Path
        Made if need be.
    overlays : bool
        Whether to draw pictures too.
    """

    def __init__(self, folder: Path, overlays: bool) -> None:
        self._folder = folder
        self._overlays = overlays
        self._events: dict[int, EventBatch] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error

    def watch(self, batches: Iterator[EventBatch], window_us: int) -> Iterator[EventBatch]:
        """Pass on batches of one window each, and keep them for the pictures."""
        for batch in batches:
            if self._overlays:
                self._events[int(batch.t[0]) // window_us * window_us] = batch
            yield batch

    def save(self, result: Result, classes: Sequence[SegmentationClass]) -> None:
        """Write the indexed mask of a window, and its picture, in the colours of these classes."""
        mask_path = self._folder / f"mask_{result.window:06d}.png"
        try:
            mask_path.write_bytes(encode_mask(result.mask, MaskEncoding.PNG, classes))
            if self._overlays:
                events = self._events.pop(result.t_start, EventBatch.empty())
                picture = Image.fromarray(overlay(result.mask, events, classes))
                picture.save(self._folder / f"overlay_{result.window:06d}.png")
        except OSError as error:
            raise _unwritable(self._folder, error) from error


def at_pace(
    batches: Iterator[EventBatch],
    span_us: int,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[EventBatch]:
    """Hold each batch back until its span of time is over, as a sensor would; times count from the first one's begin.

    Parameters
    ----------
    batches : iterator of EventBatch
        Each within one multiple of ``span_us``.
    span_us : int
        Microseconds.
    now, sleep : callable
        The clock, in seconds.
    """
    begun: float | None = None
    first = 0
    for batch in batches:
        slot = int(batch.t[0]) // span_us
        if begun is None:
            begun, first = now(), slot
        wait_s = begun + (slot + 1 - first) * span_us / 1e6 - now()
        if wait_s > 0:
            sleep(wait_s)
        yield batch


def replay(arguments: argparse.Namespace) -> tuple[Report, int]:
    """Play a recording; the report, and how often the connection was taken up again."""
    window_us: int = arguments.window_us
    sensor, chunks = read_chunks(arguments.file, window_us)
    with chunks, Client(arguments.url, timeout=arguments.timeout) as client:
        album = Album(arguments.save, arguments.overlay) if arguments.save is not None else None
        batches: Iterator[EventBatch] = chunks
        if arguments.realtime:
            batches = at_pace(batches, window_us)
        if album is not None:
            batches = album.watch(batches, window_us)
        with client.stream(batches, sensor, model=arguments.model, window_us=window_us) as results:
            report = Report(results.session.classes)
            for result in results:
                report.add(result)
                if album is not None:
                    album.save(result, report.classes)
        return report, results.reconnects


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status: 0, 2 if something is wrong, 130 if interrupted."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.overlay and arguments.save is None:
        parser.error("--overlay needs --save FOLDER")
    try:
        report, reconnects = replay(arguments)
    except RecordingError as error:
        # Those that concern a file's name hold it already.
        path = str(arguments.file)
        return _fail(error.message if path in error.message else f"{path}: {error.message}")
    except ClientError as error:
        return _fail(error.message)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    for line in report.lines():
        print(line)
    if reconnects:
        print(f"reconnects     {reconnects}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m clients.replay", description="Play a recording of events against the segmentation service."
    )
    parser.add_argument("file", type=Path, help="AEDAT4 file, or npz with t, x, y, p, width and height")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the service (%(default)s)")
    parser.add_argument("--model", default="edge-s", help="network (%(default)s)")
    parser.add_argument(
        "--window-ms",
        dest="window_us",
        type=_microseconds,
        default=33_333,
        metavar="MS",
        help="length of a window in milliseconds (33.333)",
    )
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="save indexed PNG masks there")
    parser.add_argument(
        "--overlay", action="store_true", help="with --save: also pictures of the masks with the events"
    )
    parser.add_argument("--realtime", action="store_true", help="as fast as it was recorded, not as fast as possible")
    parser.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="S", help="longest wait for an answer in seconds (60)"
    )
    return parser


def _microseconds(text: str) -> int:
    value = _number(text)
    if not 0.001 <= value <= 1e9:
        raise argparse.ArgumentTypeError(f"{text} ms is no length of a window")
    return round(value * 1000)


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} s is no time to wait")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _unwritable(folder: Path, error: OSError) -> ClientError:
    return ClientError(f"{error.filename or folder}: {error.strerror or error}")


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
