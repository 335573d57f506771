"""DDD17 (Binas et al., ICML workshop 2017): driving, DAVIS346B; labels and event tensors of Ev-SegNet.

Two layouts, which may stand side by side:

- the recordings themselves, HDF5 files of cAER packets as the recorder of ``ddd17-utils`` wrote them;
- Ev-SegNet's frames (Alonso and Murillo, CVPRW 2019): for every 50 ms a tensor of six channels, a picture, and labels,
  which are the output of a network on the picture. The 60 bottom rows are cut off: 346x200.

A recording is a table ``dvs/data`` of three byte strings for each packet: the host's time in microseconds as decimal
text, cAER's packet header (28 bytes) and its payload; ``dvs/timestamp`` repeats the host's time. The last rows of a
table are empty.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from models.datasets.root import data_root, require_folders
from models.datasets.stills import read_label_ids
from models.errors import DatasetNotFoundError, EncodingError
from models.events import EventBatch, SensorSize

SENSOR = SensorSize(346, 260)
CROP = SensorSize(346, 200)
"""What Ev-SegNet keeps: below it lie the car's bonnet and noisy labels."""
WINDOW_US = 50_000

# 15950 frames in train, 3890 in test.
TRAIN = ("rec1487339175", "rec1487842276", "rec1487593224", "rec1487846842", "rec1487779465")
TEST = ("rec1487417411",)
OTHER = ("rec1487356509",)
"""A third folder of Ev-SegNet, in neither of its splits."""

LAYOUT = """  ddd17/run*/rec*.hdf5                                                   recordings
  ddd17/dataset_our_codification/events/{train,test,other}/rec*_export_*.npy   (200, 346, 6)
  ddd17/dataset_our_codification/labels/{train,test,other}/rec*_export_*.png   class ids 0 to 5, 255 none
  ddd17/dataset_our_codification/images/{train,test,other}/rec*_export_*.png   grey, 346x200, not read
(events/ and labels/ may also stand in ddd17/ itself)"""

_HEADER = struct.Struct("<hhiiiiii")
_SPECIAL, _POLARITY = 0, 1
_TIMESTAMP_RESET = 1
_ROWS_AT_ONCE = 128
"""Length of a chunk in the recorder's files."""
_NAME = re.compile(r"(rec\d+)_export_(\d+)")

Labels = NDArray[np.uint8]


class PacketError(EncodingError):
    """A cAER packet that is cut short, contradicts its own header, or steps back in time."""


@dataclass(frozen=True, slots=True)
class PacketHeader:
    """The header of a cAER packet, with the fields that are needed here.

    Attributes
    ----------
    type : int
        0 special events, 1 polarity events, 2 frames, 3 IMU.
    size : int
        Bytes of one event.
    overflow : int
        How often the events' 31-bit clock has wrapped round.
    capacity, number : int
        Events that the payload has room for, and those that it holds.
    """

    type: int
    size: int
    overflow: int
    capacity: int
    number: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One labelled moment of Ev-SegNet's data.

    Attributes
    ----------
    recording : str
        As ``rec1487417411``.
    number : int
        The moment's number: consecutive numbers are consecutive 50 ms.
    events : float32 array, (200, 346, 6)
        See ``six_channels``.
    labels : uint8 array, (200, 346)
        Class ids, 255 none.
    """

    recording: str
    number: int
    events: NDArray[np.float32]
    labels: Labels


class Frames(Sequence[Frame]):
    """Ev-SegNet's frames in order of recording and time; each is read from disk when it is asked for."""

    def __init__(self, files: Sequence[tuple[Path, Path]]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Frames: ...
    def __getitem__(self, index: int | slice) -> Frame | Frames:
        if isinstance(index, slice):
            return Frames(self._files[index])
        return _read_frame(*self._files[index])

    def runs(self) -> list[Frames]:
        """The stretches without a gap: within one, a network's state may be carried from frame to frame."""
        ends = [0]
        for k in range(1, len(self._files)):
            (recording, number), (before, last) = (_name_of(self._files[j][0]) for j in (k, k - 1))
            if recording != before or number != last + 1:
                ends.append(k)
        ends.append(len(self._files))
        return [self[start:end] for start, end in pairwise(ends) if end > start]


def load(split: str, root: Path | None = None) -> Frames:
    """Ev-SegNet's frames of ``train``, ``test`` or ``other``.

    Raises
    ------
    DatasetNotFoundError
        If the folders are absent, or a tensor has no labels.
    """
    base = _frames_folder(root)
    require_folders("DDD17 (Ev-SegNet)", base, (f"events/{split}", f"labels/{split}"), LAYOUT)
    tensors = sorted((base / "events" / split).glob("rec*.npy"), key=_name_of)
    files = [(path, base / "labels" / split / f"{path.stem}.png") for path in tensors]
    for tensor, labels in files:
        if not labels.is_file():
            raise DatasetNotFoundError(f"{tensor} has no labels: {labels} is missing")
    return Frames(files)


def recording_path(recording: str, root: Path | None = None) -> Path:
    """Where a recording's HDF5 file is: in ``ddd17`` or a folder of it.

    Raises
    ------
    DatasetNotFoundError
        If it is in none.
    """
    base = data_root(root) / "ddd17"
    found = sorted([*base.glob(f"{recording}.hdf5"), *base.glob(f"*/{recording}.hdf5")])
    if not found:
        raise DatasetNotFoundError(f"DDD17 not found: {base} has no recording {recording}. Expected:\n{LAYOUT}")
    return found[0]


def read_recording(path: Path, *, upside_down: bool = True) -> Iterator[EventBatch]:
    """The polarity events of a recording, packet by packet, a few packets of memory at a time.

    Parameters
    ----------
    path : Path
        An HDF5 file of the recorder.
    upside_down : bool
        Turn the events by 180 degrees. That the camera hung upside down is inferred from its makers' tools, which turn
        what they show (``Viewer(rotate180=True)`` in the recorder, v2e's DDD reader by default, spiker for frames
        exported from DDD17); look at a window before you trust it.

    Yields
    ------
    EventBatch
        Times in microseconds, 64 bit, never falling. Where the camera's clock was reset, it goes on from the last
        event's time, as in ``ddd17-utils``.

    Raises
    ------
    DatasetNotFoundError
        If the file is absent, no HDF5, or not a recording.
    PacketError
        If a packet is damaged or its times step back; the message names the row.
    """
    last, offset = 0, 0
    for row, header, payload in _packets(path):
        try:
            if header.type == _SPECIAL and _resets_clock(header, payload):
                offset = last
            elif header.type == _POLARITY:
                events = decode_polarity(header, payload, upside_down=upside_down)
                if not len(events):
                    continue
                events = EventBatch(events.t + offset, events.x, events.y, events.p)
                if int(events.t[0]) < last or bool((np.diff(events.t) < 0).any()):
                    raise PacketError(f"times step back, after {last} us")
                last = int(events.t[-1])
                yield events
        except PacketError as error:
            raise PacketError(f"{path}, packet {row}: {error}") from None


def decode_header(data: bytes) -> PacketHeader:
    """Read the 28 bytes in front of a cAER packet.

    Raises
    ------
    PacketError
        If it is of another length, or its numbers contradict each other.
    """
    if len(data) != _HEADER.size:
        raise PacketError(f"the header has {len(data)} bytes, not {_HEADER.size}")
    kind, _source, size, _time_at, overflow, capacity, number, valid = _HEADER.unpack(data)
    if size <= 0 or overflow < 0 or not 0 <= valid <= number <= capacity:
        raise PacketError(
            f"the header contradicts itself: events of {size} bytes, {overflow} overflows, "
            f"{valid} valid of {number} in room for {capacity}"
        )
    return PacketHeader(kind, size, overflow, capacity, number)


def decode_polarity(header: PacketHeader, payload: bytes, *, upside_down: bool = False) -> EventBatch:
    """The valid events of a polarity packet.

    An event is two little-endian words: data (bit 0 valid, bit 1 polarity, bits 2 to 16 y, bits 17 to 31 x) and the
    lower 31 bits of the time, in microseconds; the header's overflow holds the upper bits.

    Raises
    ------
    PacketError
        If the payload is shorter than the header says, its events are not of 8 bytes, or one lies outside the sensor.
    """
    words = _words(header, payload)
    words = words[(words[:, 0] & 1) == 1]
    data = words[:, 0]
    x, y = (data >> 17).astype(np.uint16), (data >> 2 & 0x7FFF).astype(np.uint16)
    outside = (x >= SENSOR.width) | (y >= SENSOR.height)
    if outside.any():
        k = int(outside.argmax())
        raise PacketError(f"an event at ({x[k]}, {y[k]}) lies outside the {SENSOR} sensor")
    if upside_down:
        x, y = np.uint16(SENSOR.width - 1) - x, np.uint16(SENSOR.height - 1) - y
    t = words[:, 1].astype(np.int64) + (header.overflow << 31)
    return EventBatch(t, x, y, (data >> 1 & 1).astype(np.uint8))


def crop(events: EventBatch) -> EventBatch:
    """The events in the upper 200 rows, the part that has labels."""
    kept = events.y < CROP.height
    return EventBatch(events.t[kept], events.x[kept], events.y[kept], events.p[kept])


def windows(batches: Iterable[EventBatch], window_us: int = WINDOW_US) -> Iterator[tuple[int, EventBatch]]:
    """Cut a stream into windows of one length, without gap, the first beginning at the first event.

    Parameters
    ----------
    batches : iterable of EventBatch
        In order of time.
    window_us : int
        Microseconds.

    Yields
    ------
    t_start : int
        Time of the window's beginning; its end, ``t_start + window_us``, belongs to the next window.
    events : EventBatch
        Perhaps none. A window is complete once an event at or after its end has come: the last, open one is left out,
        as in ``ddd17-utils``.
    """
    pending: list[EventBatch] = []
    start: int | None = None
    for batch in batches:
        if not len(batch):
            continue
        if start is None:
            start = int(batch.t[0])
        edges = np.arange(start + window_us, int(batch.t[-1]) + 1, window_us)
        cuts = [0, *np.searchsorted(batch.t, edges, side="left").tolist()]
        for begin, end in pairwise(cuts):
            yield start, EventBatch.concatenate([*pending, batch[begin:end]])
            pending, start = [], start + window_us
        pending.append(batch[cuts[-1] :])


def labelled_windows(
    recording: str, root: Path | None = None, *, upside_down: bool = True
) -> Iterator[tuple[EventBatch, Labels | None]]:
    """A recording as a stream of cropped 50 ms windows in order of time, with Ev-SegNet's labels where there are any.

    Window ``k`` since the recording's first event carries the labels that are numbered ``k``: the exporter of
    ``ddd17-utils`` bins like this. How Ev-SegNet's own exporter, which is not public, began its bins could not be
    checked against the data; labels may be a window off.

    Yields
    ------
    events : EventBatch
        Inside ``CROP``.
    truth : uint8 array, (200, 346), or None

    Raises
    ------
    DatasetNotFoundError, PacketError
        As ``read_recording``; also if there are no labels of this recording at all.
    """
    path = recording_path(recording, root)
    labels = _label_paths(recording, root)
    for k, (_, events) in enumerate(windows(read_recording(path, upside_down=upside_down))):
        yield crop(events), _read_labels(labels[k]) if k in labels else None


def six_channels(
    events: EventBatch, size: SensorSize, t_start: int, window_us: int = WINDOW_US, full_scale: float | None = None
) -> NDArray[np.float32]:
    """Ev-SegNet's image of one window's events: +hist, -hist, +mean, +std, -mean, -std.

    For each pixel and polarity, with times ``t`` from 0 at the window's beginning to 1 at its end and ``n`` events:

    - hist = 2 n / full_scale - 1, at most 1, and -1 where there is no event;
    - mean = 2 mean(t) - 1, and 0 where there is no event;
    - std = sqrt(sum((t - mean(t))²) / (n - 1)), and 0 where there are fewer than two events.

    The order, the values of empty pixels and the ranges ([-1, 1], [-1, 1], [0, 1]) are those of the published tensors,
    as Ev-SegNet's own reading code shows. The statistics are the paper's equations. Neither says how counts were scaled
    to [-1, 1], so ``full_scale`` is a choice: do not mix tensors made here with published ones.

    Parameters
    ----------
    events : EventBatch
        Of times in [t_start, t_start + window_us].
    size : SensorSize
    t_start, window_us : int
        Microseconds.
    full_scale : float, optional
        The count that becomes 1; by default the window's largest, over both polarities.

    Returns
    -------
    float32 array, (size.height, size.width, 6)
        With the channels last, as in Ev-SegNet's files. Mind that ON comes first, unlike in
        ``models.encoding.polarity_counts``.

    Raises
    ------
    EncodingError
        If an event lies outside of ``size`` or of the window.
    """
    if len(events) and (int(events.x.max()) >= size.width or int(events.y.max()) >= size.height):
        raise EncodingError(f"an event lies outside the {size} sensor")
    t = (events.t - t_start) / window_us
    if len(t) and (t.min() < 0 or t.max() > 1):
        raise EncodingError(f"an event lies outside the window of {window_us} us from {t_start}")
    pixels = size.height * size.width
    index = (1 - events.p.astype(np.int64)) * pixels + events.y.astype(np.int64) * size.width + events.x
    n = np.bincount(index, minlength=2 * pixels)
    mean = np.bincount(index, t, 2 * pixels) / np.maximum(n, 1)
    squares = np.bincount(index, (t - mean[index]) ** 2, 2 * pixels)
    std = np.sqrt(squares / np.maximum(n - 1, 1))
    scale = full_scale if full_scale is not None else max(int(n.max(initial=0)), 1)
    hist = np.minimum(2 * n / scale - 1, 1)
    mean = np.where(n > 0, 2 * mean - 1, 0)
    on, off = slice(0, pixels), slice(pixels, None)
    planes = [hist[on], hist[off], mean[on], std[on], mean[off], std[off]]
    return np.stack(planes, axis=-1).astype(np.float32).reshape(size.height, size.width, 6)


def paper_input(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """The two channels that Spiking-DeepLab (Kim, Chough and Panda, 2022) sees: (H, W, 6) to +hist, -hist, (2, H, W).

    The paper's scaling, each image column of a channel to [-0.5, 0.5], is the network's preprocessing, not done here.
    """
    return np.ascontiguousarray(tensor[..., :2].transpose(2, 0, 1))


def paper_cells(tensor: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """The paper's two channels as cells (2, height, width) in [0, 1], OFF first, as ``models.coding.cells_64`` does.

    Means over the pixels of a cell: how Ev-SegNet scaled the counts is not published, and the paper's normalisation of
    each image column leaves no scale.
    """
    channels = (paper_input(tensor)[::-1].transpose(1, 2, 0) + 1) / 2
    cells = cv2.resize(np.ascontiguousarray(channels), (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(cells.transpose(2, 0, 1))


def _frames_folder(root: Path | None) -> Path:
    base = data_root(root) / "ddd17"
    unpacked = base / "dataset_our_codification"
    return unpacked if unpacked.is_dir() else base


def _name_of(path: Path) -> tuple[str, int]:
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise DatasetNotFoundError(f"{path} is not named like rec1487417411_export_100")
    return match[1], int(match[2])


def _read_frame(tensor: Path, labels: Path) -> Frame:
    recording, number = _name_of(tensor)
    try:
        events = np.load(tensor)
    except (OSError, ValueError) as error:
        raise DatasetNotFoundError(f"{tensor} is missing or not an array: {error}") from None
    if events.shape != (CROP.height, CROP.width, 6):
        raise EncodingError(f"{tensor} has the shape {events.shape}, not {(CROP.height, CROP.width, 6)}")
    return Frame(recording, number, events.astype(np.float32), _read_labels(labels))


def _read_labels(path: Path) -> Labels:
    labels = read_label_ids(path)
    if labels.shape != (CROP.height, CROP.width):
        raise EncodingError(f"{path} has the shape {labels.shape}, not {(CROP.height, CROP.width)}")
    return labels


def _label_paths(recording: str, root: Path | None) -> dict[int, Path]:
    base = _frames_folder(root)
    require_folders("DDD17 (Ev-SegNet)", base, ("labels",), LAYOUT)
    paths = {_name_of(path)[1]: path for path in base.glob(f"labels/*/{recording}_export_*.png")}
    if not paths:
        raise DatasetNotFoundError(f"{base / 'labels'} has no labels of {recording}. Expected:\n{LAYOUT}")
    return paths


def _packets(path: Path) -> Iterator[tuple[int, PacketHeader, bytes]]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetNotFoundError(f"{path} is missing or not an HDF5 file: {error}") from None
    with file:
        if "dvs/data" not in file or file["dvs/data"].shape[1:] != (3,):
            raise DatasetNotFoundError(f"{path} is not a DDD17 recording: it has no table dvs/data of three columns")
        table = file["dvs/data"]
        for first in range(0, len(table), _ROWS_AT_ONCE):
            for k, (_, header, payload) in enumerate(_rows(path, table, first)):
                # The recorder makes its table longer by thousands of rows at a time and never cuts off the rest.
                if len(header):
                    try:
                        decoded = decode_header(header.tobytes())
                    except PacketError as error:
                        raise PacketError(f"{path}, packet {first + k}: {error}") from None
                    yield first + k, decoded, payload.tobytes()


def _rows(path: Path, table: Any, first: int) -> Any:
    try:
        return table[first : first + _ROWS_AT_ONCE]
    except OSError as error:
        raise PacketError(f"{path}: rows from {first} on cannot be read: {error}") from None


def _words(header: PacketHeader, payload: bytes) -> NDArray[np.uint32]:
    if header.size != 8:
        raise PacketError(f"its events have {header.size} bytes, not 8")
    if len(payload) < header.capacity * header.size:
        raise PacketError(f"cut short: {len(payload)} bytes of {header.capacity * header.size}")
    return np.frombuffer(payload, "<u4", 2 * header.number).reshape(-1, 2)


def _resets_clock(header: PacketHeader, payload: bytes) -> bool:
    data = _words(header, payload)[:, 0]
    return bool(((data & 1 == 1) & (data >> 1 & 0x7F == _TIMESTAMP_RESET)).any())
