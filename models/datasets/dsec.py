"""DSEC-Semantic (Sun et al., ECCV 2022): labels for parts of DSEC (Gehrig et al., RA-L 2021), driving, 640x480.

The labels are the output of a network on the frame camera's pictures, warped into the rectified view of the left event
camera. They leave out the 40 bottom rows, so they are 640x440, and stand at the frame camera's 20 Hz.

Times are microseconds of the clock that all of DSEC's sensors share. Event files count from their own ``t_offset``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from models.classes import SegmentationClass
from models.datasets.labels import class_ids, set_table
from models.datasets.root import data_root, require_folders
from models.datasets.stills import read_label_ids
from models.errors import DatasetNotFoundError, EncodingError
from models.events import EventBatch, SensorSize

SENSOR = SensorSize(640, 480)
CROP = SensorSize(640, 440)
"""What has labels."""
WINDOW_US = 50_000

TRAIN = (
    "zurich_city_00_a",
    "zurich_city_01_a",
    "zurich_city_02_a",
    "zurich_city_04_a",
    "zurich_city_05_a",
    "zurich_city_06_a",
    "zurich_city_07_a",
    "zurich_city_08_a",
)
TEST = ("zurich_city_13_a", "zurich_city_14_c", "zurich_city_15_a")

LAYOUT = """  dsec/{train,test}/<sequence>/events/left/events.h5         events/{p,x,y,t}, ms_to_idx, t_offset
  dsec/{train,test}/<sequence>/events/left/rectify_map.h5    rectify_map, (480, 640, 2)
  dsec/{train,test}/<sequence>/11classes/000000.png          class ids, 640x440
  dsec/{train,test}/<sequence>/<sequence>_semantic_timestamps.txt   one time in us for each PNG
(labels and times may also stand in <sequence>/semantic/ or <sequence>/semantic/left/, PNGs in 11classes/data/)"""

CLASSES: tuple[SegmentationClass, ...] = (
    SegmentationClass(0, "background", (0, 0, 0)),
    SegmentationClass(1, "building", (70, 70, 70)),
    SegmentationClass(2, "fence", (190, 153, 153)),
    SegmentationClass(3, "person", (220, 20, 60)),
    SegmentationClass(4, "pole", (153, 153, 153)),
    SegmentationClass(5, "road", (128, 64, 128)),
    SegmentationClass(6, "sidewalk", (244, 35, 232)),
    SegmentationClass(7, "vegetation", (107, 142, 35)),
    SegmentationClass(8, "car", (0, 0, 142)),
    SegmentationClass(9, "wall", (102, 102, 156)),
    SegmentationClass(10, "traffic sign", (220, 220, 0)),
)
"""The eleven classes; colours are those of Cityscapes, but for the background's black."""

# The eleven are made of Cityscapes' nineteen: the background is the sky; person takes in riders; vegetation terrain;
# traffic sign traffic lights; car every vehicle, bicycles too, just as Ev-SegNet counts them. So each is one of ours.
SETS = set_table({0: [1], 1: [1], 2: [1], 3: [4], 4: [2], 5: [0], 6: [0], 7: [3], 8: [5], 9: [1], 10: [2]})

PUBLISHED_LABELS = slice(6, None, 2)
"""The labels that ESS, and those who compare themselves with it, are scored on: not the first six, then every other."""

Labels = NDArray[np.uint8]
RectifyMap = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sequence:
    """The files of one sequence; nothing is read yet but the labels' times.

    Attributes
    ----------
    events, rectify_map : Path
    labels : tuple of Path
    times : int64 array, (len(labels),)
        Time of each label in microseconds, rising.
    """

    name: str
    events: Path
    rectify_map: Path
    labels: tuple[Path, ...]
    times: NDArray[np.int64]


def split_of(name: str) -> str:
    """``train`` or ``test``, by the official split.

    Raises
    ------
    DatasetNotFoundError
        If there is no such sequence.
    """
    if name not in TRAIN + TEST:
        raise DatasetNotFoundError(f"{name!r} is no sequence of DSEC-Semantic: {', '.join(TRAIN + TEST)}")
    return "train" if name in TRAIN else "test"


def find(name: str, root: Path | None = None) -> Sequence:
    """Look up the files of a sequence.

    Raises
    ------
    DatasetNotFoundError
        If some are absent.
    EncodingError
        If the labels' times do not fit the labels.
    """
    base = data_root(root) / "dsec" / split_of(name) / name
    require_folders("DSEC-Semantic", base, ("events/left",), LAYOUT)
    events, rectification = (base / "events" / "left" / file for file in ("events.h5", "rectify_map.h5"))
    folder, times_path = _label_folder(base), _times_path(base)
    for path in (events, rectification, folder, times_path):
        if path is None or not path.exists():
            what = "no labels or times of labels" if path is None else f"no {path.relative_to(base)}"
            raise DatasetNotFoundError(f"DSEC-Semantic not found: {base} has {what}. Expected:\n{LAYOUT}")
    assert folder is not None
    assert times_path is not None
    labels = tuple(sorted(folder.glob("*.png")))
    times = _read_times(times_path)
    if len(labels) != len(times):
        raise EncodingError(f"{folder} has {len(labels)} labels, but {times_path} has {len(times)} times")
    return Sequence(name, events, rectification, labels, times)


def read_window(file: Any, t_start: int, t_end: int) -> EventBatch:
    """The events of [t_start, t_end), with no more read from disk than the milliseconds that they lie in.

    Parameters
    ----------
    file : h5py.File
        An open ``events.h5``; the real ones need ``open_events``.
    t_start, t_end : int
        Microseconds of the shared clock.

    Returns
    -------
    EventBatch
        Times on the shared clock; coordinates as the sensor had them, not rectified. Empty outside the recording.
    """
    offset = int(file["t_offset"][()]) if "t_offset" in file else 0
    start, end = max(t_start - offset, 0), t_end - offset
    if end <= start:
        return EventBatch.empty()
    index = file["ms_to_idx"]
    total = len(file["events/t"])
    # ms_to_idx[ms] is the first event at or after ms milliseconds.
    first = _event_at(index, start // 1000, total)
    last = _event_at(index, -(-end // 1000), total)
    t = file["events/t"][first:last].astype(np.int64)
    low, high = np.searchsorted(t, (start, end)).tolist()
    part = slice(first + low, first + high)
    return EventBatch(
        t[low:high] + offset,
        file["events/x"][part].astype(np.uint16),
        file["events/y"][part].astype(np.uint16),
        file["events/p"][part].astype(np.uint8),
    )


def open_events(path: Path) -> Any:
    """Open an ``events.h5``, which is compressed with Blosc and ZSTD; the caller closes it.

    Returns
    -------
    h5py.File

    Raises
    ------
    DatasetNotFoundError
        If the decompressor is not installed, or the file is absent, no HDF5, or without events.
    """
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        raise DatasetNotFoundError(f"{path} needs Blosc, which is not installed: pip install hdf5plugin") from None
    file = _open(path)
    missing = [name for name in ("events/p", "events/x", "events/y", "events/t", "ms_to_idx") if name not in file]
    if missing:
        file.close()
        raise DatasetNotFoundError(f"{path} is not an event file of DSEC: it has no {', '.join(missing)}")
    return file


def read_rectify_map(path: Path) -> RectifyMap:
    """Where each pixel lies in the rectified view: float32, (480, 640, 2), x and y."""
    with _open(path) as file:
        if "rectify_map" not in file or file["rectify_map"].shape != (SENSOR.height, SENSOR.width, 2):
            raise DatasetNotFoundError(f"{path} has no rectify_map of (480, 640, 2)")
        return np.asarray(file["rectify_map"][()], np.float32)


def rectify(events: EventBatch, table: RectifyMap, size: SensorSize = SENSOR) -> EventBatch:
    """Events in the rectified view, at the nearest pixel; those that fall outside of ``size`` are left out.

    Raises
    ------
    EncodingError
        If an event lies outside the sensor.
    """
    height, width = table.shape[:2]
    if len(events) and (int(events.x.max()) >= width or int(events.y.max()) >= height):
        raise EncodingError(f"an event lies outside the {width}x{height} sensor")
    place = np.rint(table[events.y, events.x])
    inside = ((place >= 0) & (place < (size.width, size.height))).all(axis=1)
    x, y = place[inside].astype(np.uint16).T
    return EventBatch(events.t[inside], x, y, events.p[inside])


def crop(events: EventBatch) -> EventBatch:
    """The events in the upper 440 rows, the part that has labels."""
    kept = events.y < CROP.height
    return EventBatch(events.t[kept], events.x[kept], events.y[kept], events.p[kept])


def label_windows(times: NDArray[np.int64], window_us: int = WINDOW_US) -> list[tuple[int, int, int | None]]:
    """Windows that follow each other without gap, each label standing at the end of one.

    The time between two labels is cut into equal windows as near to ``window_us`` as goes; the first window begins
    ``window_us`` before the first label.

    Returns
    -------
    list of (t_start, t_end, label)
        ``label`` is the index of the label at ``t_end``, or None.
    """
    found: list[tuple[int, int, int | None]] = []
    starts = [int(times[0]) - window_us, *times[:-1].tolist()] if len(times) else []
    for k, (start, end) in enumerate(zip(starts, times.tolist(), strict=True)):
        parts = max(1, round((end - start) / window_us))
        edges = [start + (end - start) * j // parts for j in range(parts + 1)]
        found += [(a, b, k if b == end else None) for a, b in pairwise(edges)]
    return found


def labelled_windows(
    name: str,
    root: Path | None = None,
    *,
    window_us: int = WINDOW_US,
    rectified: bool = True,
    scored: slice = slice(None),
    classes: Literal["ddd17", "dsec"] = "ddd17",
) -> Iterator[tuple[EventBatch, Labels | None]]:
    """A sequence as a stream of windows in order of time, so that a network's state can be carried through.

    Parameters
    ----------
    name : str
        As ``zurich_city_13_a``.
    root : Path, optional
    window_us : int
        Length of a window, see ``label_windows``.
    rectified : bool
        Bring the events to where the labels are. Without it they stay where the sensor had them.
    scored : slice
        The labels that are given; windows of the others carry None. See ``PUBLISHED_LABELS``.
    classes : {"ddd17", "dsec"}
        Ids of our six classes, or the eleven as they are stored.

    Yields
    ------
    events : EventBatch
        Inside ``CROP``.
    truth : uint8 array, (440, 640), or None
        Class ids; 255 none.

    Raises
    ------
    DatasetNotFoundError, EncodingError
        If files are absent or damaged.
    """
    sequence = find(name, root)
    table = class_ids(SETS) if classes == "ddd17" else np.arange(256, dtype=np.uint8)
    given = set(range(len(sequence.labels))[scored])
    place = read_rectify_map(sequence.rectify_map) if rectified else None
    with open_events(sequence.events) as file:
        for t_start, t_end, label in label_windows(sequence.times, window_us):
            events = _read_or_refuse(sequence.events, file, t_start, t_end)
            events = crop(events) if place is None else rectify(events, place, CROP)
            truth = read_labels(sequence.labels[label]) if label is not None and label in given else None
            yield events, None if truth is None else np.take(table, truth)


def read_labels(path: Path) -> Labels:
    """The eleven classes' ids, (440, 640), as they are stored.

    Raises
    ------
    DatasetNotFoundError
        If it is absent or no picture.
    EncodingError
        If it is of another size.
    """
    labels = read_label_ids(path)
    if labels.shape != (CROP.height, CROP.width):
        raise EncodingError(f"{path} has the shape {labels.shape}, not {(CROP.height, CROP.width)}")
    return labels


def _open(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DatasetNotFoundError(f"{path} is missing or not an HDF5 file: {error}") from None


def _event_at(index: Any, ms: int, total: int) -> int:
    return int(index[ms]) if ms < len(index) else total


def _read_or_refuse(path: Path, file: Any, t_start: int, t_end: int) -> EventBatch:
    try:
        return read_window(file, t_start, t_end)
    except OSError as error:
        raise EncodingError(f"{path}: events of {t_start} to {t_end} us cannot be read: {error}") from None


def _label_folder(base: Path) -> Path | None:
    homes = (base, base / "semantic", base / "semantic" / "left")
    folders = (home / "11classes" / data for home in homes for data in ("data", ""))
    return next((folder for folder in folders if folder.is_dir()), None)


def _times_path(base: Path) -> Path | None:
    names = (f"{base.name}_semantic_timestamps.txt", "semantic_timestamps.txt", "timestamps.txt")
    homes = (base, base / "semantic", base / "semantic" / "left")
    return next((home / name for home in homes for name in names if (home / name).is_file()), None)


def _read_times(path: Path) -> NDArray[np.int64]:
    try:
        times = np.array([int(line) for line in path.read_text().split()], np.int64)
    except ValueError as error:
        raise EncodingError(f"{path} does not hold whole microseconds, one a line: {error}") from None
    if (np.diff(times) <= 0).any():
        raise EncodingError(f"{path}: the times do not rise")
    return times
