"""DDD17: cAER packets, recordings, windows, Ev-SegNet's frames and its six channels."""

from __future__ import annotations

import statistics
import struct
from itertools import pairwise
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.datasets import ddd17
from models.datasets.ddd17 import PacketError, decode_header, decode_polarity, six_channels
from models.errors import DatasetNotFoundError, EncodingError
from models.events import EventBatch, SensorSize

RECORDING = ddd17.TEST[0]

Event = tuple[int, int, int, int, int]
"""t, x, y, polarity, valid."""
Packet = tuple[bytes, bytes]


def polarity_packet(events: list[Event], overflow: int = 0, spare: int = 0) -> Packet:
    """A polarity packet as cAER lays it out, with room for some more events."""
    valid = sum(event[4] for event in events)
    header = struct.pack("<hhiiiiii", 1, 1, 8, 4, overflow, len(events) + spare, len(events), valid)
    body = b"".join(struct.pack("<II", x << 17 | y << 2 | p << 1 | ok, t) for t, x, y, p, ok in events)
    return header, body + bytes(8 * spare)


def reset_packet() -> Packet:
    """The special event of a camera whose clock goes back to 0."""
    return struct.pack("<hhiiiiii", 0, 1, 8, 4, 0, 1, 1, 1), struct.pack("<II", 1 << 1 | 1, 2**31 - 1)


def frame_packet() -> Packet:
    """A frame event, which is no concern of ours; the recorder keeps it between the others."""
    return struct.pack("<hhiiiiii", 2, 1, 44, 12, 0, 1, 1, 1), bytes(44)


def write_recording(path: Path, packets: list[Packet], empty_rows: int = 3) -> Path:
    """An HDF5 file as the recorder of ddd17-utils leaves it: its table ends in rows that were never filled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = len(packets) + empty_rows
    with h5py.File(path, "w") as file:
        table = file.create_dataset(
            "dvs/data", (rows, 3), h5py.vlen_dtype(np.uint8), chunks=(128, 3), maxshape=(None, 3)
        )
        host = file.create_dataset("dvs/timestamp", (rows,), np.int64, chunks=(128,), maxshape=(None,))
        for k, (header, body) in enumerate(packets):
            now = 1_487_417_411_000_000 + 10_000 * k
            for column, data in enumerate((str(now).encode(), header, body)):
                table[k, column] = np.frombuffer(data, np.uint8)
            host[k] = now
    return path


def simple(t: int, x: int = 0, y: int = 0, p: int = 1) -> Event:
    return t, x, y, p, 1


def batch(t: list[int]) -> EventBatch:
    zeros = np.zeros(len(t), np.uint16)
    return EventBatch(np.array(t, np.int64), zeros, zeros, zeros.astype(np.uint8))


def tuples(events: EventBatch) -> list[tuple[int, int, int, int]]:
    return list(zip(*(a.tolist() for a in (events.t, events.x, events.y, events.p)), strict=True))


# --- packets


def test_a_packet_by_hand() -> None:
    # x 345, y 200, ON, valid: 345·2¹⁷ + 200·2² + 2 + 1.
    body = struct.pack("<II", 45_219_840 + 800 + 3, 1_000)
    header = struct.pack("<hhiiiiii", 1, 1, 8, 4, 2, 1, 1, 1)
    events = decode_polarity(decode_header(header), body)
    assert tuples(events) == [(2 * 2**31 + 1_000, 345, 200, 1)]
    assert tuples(decode_polarity(decode_header(header), body, upside_down=True)) == [(2 * 2**31 + 1_000, 0, 59, 1)]
    assert [a.dtype for a in (events.t, events.x, events.y, events.p)] == [np.int64, np.uint16, np.uint16, np.uint8]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**31 - 1), st.integers(0, 345), st.integers(0, 259), st.integers(0, 1), st.integers(0, 1)
        ),
        max_size=40,
    ),
    st.integers(0, 3),
    st.integers(0, 4),
)
def test_decoding_agrees_with_one_event_at_a_time(events: list[Event], overflow: int, spare: int) -> None:
    header, body = polarity_packet(events, overflow, spare)
    slow = []
    for k in range(len(events)):
        data, t = struct.unpack_from("<II", body, 8 * k)
        if data & 1:
            slow.append(((overflow << 31) + t, data >> 17, data >> 2 & 0b111111111111111, data >> 1 & 1))
    assert tuples(decode_polarity(decode_header(header), body)) == slow


@given(st.binary(min_size=28, max_size=28), st.binary(max_size=200))
def test_noise_is_decoded_or_refused_but_never_crashes(header: bytes, body: bytes) -> None:
    try:
        events = decode_polarity(decode_header(header), body)
    except PacketError:
        return
    assert not len(events) or (events.x.max() < 346 and events.y.max() < 260)


def test_damaged_packets_are_refused() -> None:
    header, body = polarity_packet([simple(1), simple(2)])
    with pytest.raises(PacketError, match="the header has 27 bytes, not 28"):
        decode_header(header[:-1])
    with pytest.raises(PacketError, match="cut short: 15 bytes of 16"):
        decode_polarity(decode_header(header), body[:-1])
    with pytest.raises(PacketError, match="3 valid of 2 in room for 2"):
        decode_header(struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 2, 2, 3))
    with pytest.raises(PacketError, match="events have 16 bytes, not 8"):
        decode_polarity(decode_header(struct.pack("<hhiiiiii", 1, 1, 16, 4, 0, 1, 1, 1)), bytes(16))
    with pytest.raises(PacketError, match=r"an event at \(346, 7\) lies outside the 346x260 sensor"):
        decode_polarity(*_decoded(polarity_packet([simple(1), simple(2, 346, 7)])))


def _decoded(packet: Packet) -> tuple[ddd17.PacketHeader, bytes]:
    return decode_header(packet[0]), packet[1]


# --- recordings


def test_a_recording_gives_its_polarity_events_in_order(tmp_path: Path) -> None:
    packets = [polarity_packet([simple(10, 3, 4, 0)]), frame_packet(), polarity_packet([simple(20, 5, 6), simple(20)])]
    path = write_recording(tmp_path / "rec.hdf5", packets)
    found = list(ddd17.read_recording(path, upside_down=False))
    assert [tuples(events) for events in found] == [[(10, 3, 4, 0)], [(20, 5, 6, 1), (20, 0, 0, 1)]]
    turned = list(ddd17.read_recording(path))
    assert tuples(turned[0]) == [(10, 342, 255, 0)]


def test_more_packets_than_are_read_at_once(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "rec.hdf5", [polarity_packet([simple(k)]) for k in range(300)])
    assert EventBatch.concatenate(list(ddd17.read_recording(path))).t.tolist() == list(range(300))


def test_the_clock_wraps_and_is_reset(tmp_path: Path) -> None:
    packets = [
        polarity_packet([simple(2**31 - 1)]),
        polarity_packet([simple(4)], overflow=1),
        reset_packet(),
        polarity_packet([simple(6)]),
    ]
    path = write_recording(tmp_path / "rec.hdf5", packets)
    times = EventBatch.concatenate(list(ddd17.read_recording(path))).t
    assert times.tolist() == [2**31 - 1, 2**31 + 4, 2**31 + 10]


def test_damage_is_told_by_file_and_row(tmp_path: Path) -> None:
    good, (header, body) = polarity_packet([simple(5)]), polarity_packet([simple(6)])
    cut = write_recording(tmp_path / "cut.hdf5", [good, (header, body[:3])])
    with pytest.raises(PacketError, match=r"cut.hdf5, packet 1: cut short: 3 bytes of 8"):
        list(ddd17.read_recording(cut))
    bad = write_recording(tmp_path / "bad.hdf5", [good, (header[:9], body)])
    with pytest.raises(PacketError, match=r"bad.hdf5, packet 1: the header has 9 bytes"):
        list(ddd17.read_recording(bad))
    back = write_recording(tmp_path / "back.hdf5", [good, polarity_packet([simple(4)])])
    with pytest.raises(PacketError, match=r"back.hdf5, packet 1: times step back, after 5 us"):
        list(ddd17.read_recording(back))


def test_a_damaged_file_is_told_with_the_rows(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "rec.hdf5", [polarity_packet([simple(k)]) for k in range(300)])
    data = path.read_bytes()
    # HDF5 keeps the rows' byte strings in collections with this signature.
    path.write_bytes(data.replace(b"GCOL", b"LOST"))
    with pytest.raises(PacketError, match=r"rec.hdf5: rows from 0 on cannot be read"):
        list(ddd17.read_recording(path))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetNotFoundError, match=r"rec.hdf5 is missing or not an HDF5 file: .*truncated"):
        list(ddd17.read_recording(path))


def test_what_is_no_recording_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="missing or not an HDF5 file"):
        list(ddd17.read_recording(tmp_path / "none.hdf5"))
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(DatasetNotFoundError, match="not an HDF5 file"):
        list(ddd17.read_recording(tmp_path / "text.hdf5"))
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["dvs_frame"] = np.zeros((2, 2))
    with pytest.raises(DatasetNotFoundError, match="no table dvs/data"):
        list(ddd17.read_recording(tmp_path / "other.hdf5"))


# --- windows


def test_windows_follow_without_gap_from_the_first_event() -> None:
    found = list(ddd17.windows([batch([7, 10]), batch([]), batch([17, 40, 47])], window_us=10))
    assert [(start, events.t.tolist()) for start, events in found] == [(7, [7, 10]), (17, [17]), (27, []), (37, [40])]
    assert list(ddd17.windows([])) == []


@given(st.lists(st.integers(0, 90), max_size=60), st.integers(1, 40), st.lists(st.integers(0, 60), max_size=5))
def test_windows_do_not_depend_on_how_the_stream_was_cut(steps: list[int], window_us: int, cuts: list[int]) -> None:
    events = batch(np.cumsum(steps, dtype=np.int64).tolist())
    edges = [0, *sorted(cuts), len(events)]
    parts = [events[a:b] for a, b in pairwise(edges)]
    found = [(start, w.t.tolist()) for start, w in ddd17.windows(parts, window_us)]
    times = events.t.tolist()
    slow = []
    start = times[0] if times else 0
    while times and start + window_us <= times[-1]:
        slow.append((start, [t for t in times if start <= t < start + window_us]))
        start += window_us
    assert found == slow


def test_the_crop_takes_off_the_60_bottom_rows() -> None:
    zeros = np.zeros(3, np.uint16)
    events = EventBatch(np.arange(3), zeros, np.array([199, 200, 259], np.uint16), zeros.astype(np.uint8))
    assert ddd17.crop(events).t.tolist() == [0]


# --- Ev-SegNet's frames


def write_frames(base: Path, split: str, names: list[str]) -> None:
    for kind in ("events", "labels"):
        (base / kind / split).mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        tensor = np.full((200, 346, 6), k, np.float64)
        np.save(base / "events" / split / f"{name}.npy", tensor)
        cv2.imwrite(str(base / "labels" / split / f"{name}.png"), np.full((200, 346), k % 6, np.uint8))


@pytest.mark.parametrize("folder", ["ddd17/dataset_our_codification", "ddd17"])
def test_frames_come_in_order_of_time_and_in_runs(tmp_path: Path, folder: str) -> None:
    names = [f"{RECORDING}_export_{k}" for k in (9, 10, 100, 101)] + ["rec1487356509_export_102"]
    write_frames(tmp_path / folder, "test", names)
    frames = ddd17.load("test", tmp_path)
    assert [(f.recording[-4:], f.number) for f in frames] == [
        ("6509", 102),
        ("7411", 9),
        ("7411", 10),
        ("7411", 100),
        ("7411", 101),
    ]
    assert frames[1].events.shape == (200, 346, 6)
    assert frames[1].events.dtype == np.float32
    assert (frames[2].labels == 1).all()
    assert [[f.number for f in run] for run in frames.runs()] == [[102], [9, 10], [100, 101]]
    assert [f.number for f in frames[-2:]] == [100, 101]
    assert ddd17.Frames([]).runs() == []


def test_the_paper_sees_the_first_two_channels() -> None:
    tensor = np.arange(2 * 3 * 6, dtype=np.float32).reshape(2, 3, 6)
    found = ddd17.paper_input(tensor)
    assert found.shape == (2, 2, 3)
    assert found[1].tolist() == [[1, 7, 13], [19, 25, 31]]


def test_absent_or_damaged_frames_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"has no events/train, labels/train. Expected:\n  ddd17/run"):
        ddd17.load("train", tmp_path)
    with pytest.raises(DatasetNotFoundError, match=r"has no recording rec1487417411. Expected:\n  ddd17/run"):
        ddd17.recording_path(RECORDING, tmp_path)
    base = tmp_path / "ddd17"
    write_frames(base, "train", ["rec1_export_1", "rec1_export_2", "rec1_export_3"])
    (base / "events/train/rec1_export_1.npy").write_bytes(b"x")
    np.save(base / "events/train/rec1_export_2.npy", np.zeros((260, 346, 6)))
    cv2.imwrite(str(base / "labels/train/rec1_export_3.png"), np.zeros((260, 346), np.uint8))
    frames = ddd17.load("train", tmp_path)
    with pytest.raises(DatasetNotFoundError, match=r"export_1.npy is missing or not an array"):
        _ = frames[0]
    with pytest.raises(EncodingError, match=r"the shape \(260, 346, 6\), not \(200, 346, 6\)"):
        _ = frames[1]
    with pytest.raises(EncodingError, match=r"export_3.png has the shape \(260, 346\)"):
        _ = frames[2]
    (base / "labels/train/rec1_export_3.png").unlink()
    with pytest.raises(DatasetNotFoundError, match="has no labels"):
        ddd17.load("train", tmp_path)


# --- a labelled stream


def test_a_recording_is_a_stream_with_labels_where_there_are_any(tmp_path: Path) -> None:
    times = [1_000, 60_000, 101_000, 151_000]
    packets = [polarity_packet([simple(t, 1, 2), simple(t, 1, 230)]) for t in times]
    write_recording(tmp_path / f"ddd17/run3/{RECORDING}.hdf5", packets)
    write_frames(tmp_path / "ddd17", "test", [f"{RECORDING}_export_{k}" for k in (1, 2)])
    found = list(ddd17.labelled_windows(RECORDING, tmp_path, upside_down=False))
    assert [events.t.tolist() for events, _ in found] == [[1_000], [60_000], [101_000]]
    assert [None if truth is None else int(truth.max()) for _, truth in found] == [None, 0, 1]
    assert found[1][1] is not None
    assert found[1][1].shape == (200, 346)
    assert all(events.y.max() < 200 for events, _ in found)


def test_a_stream_without_any_labels_is_refused(tmp_path: Path) -> None:
    write_recording(tmp_path / f"ddd17/{RECORDING}.hdf5", [polarity_packet([simple(1)])])
    with pytest.raises(DatasetNotFoundError, match="has no labels"):
        next(ddd17.labelled_windows(RECORDING, tmp_path))
    (tmp_path / "ddd17/labels/test").mkdir(parents=True)
    with pytest.raises(DatasetNotFoundError, match="has no labels of rec1487417411"):
        next(ddd17.labelled_windows(RECORDING, tmp_path))


# --- six channels


def test_six_channels_by_hand() -> None:
    # 100 us. Pixel (0, 0): ON at 0, 50 and 100; OFF at 25. Pixel (1, 0): ON at 100.
    events = EventBatch(
        np.array([1_000, 1_025, 1_050, 1_100, 1_100]),
        np.array([0, 0, 0, 0, 1], np.uint16),
        np.zeros(5, np.uint16),
        np.array([1, 0, 1, 1, 1], np.uint8),
    )
    image = six_channels(events, SensorSize(3, 1), 1_000, 100)
    assert image.shape == (1, 3, 6)
    assert image.dtype == np.float32
    # Three events are the most, so 2·3/3 − 1 = 1 and 2·1/3 − 1 = −1/3; the std of 0, 0.5, 1 is 0.5.
    assert image[0, 0].tolist() == pytest.approx([1, -1 / 3, 0, 0.5, -0.5, 0])
    assert image[0, 1].tolist() == pytest.approx([-1 / 3, -1, 1, 0, 0, 0])
    assert image[0, 2].tolist() == [-1, -1, 0, 0, 0, 0]
    assert six_channels(events, SensorSize(3, 1), 1_000, 100, full_scale=2)[0, :2, 0].tolist() == [1, 0]


def test_a_window_without_events_is_an_empty_image() -> None:
    image = six_channels(EventBatch.empty(), SensorSize(4, 2), 0)
    assert (image == np.array([-1, -1, 0, 0, 0, 0], np.float32)).all()


def test_events_outside_of_pixels_or_window_are_refused() -> None:
    with pytest.raises(EncodingError, match="outside the 4x2 sensor"):
        six_channels(EventBatch(np.zeros(1, np.int64), *_xyp([(4, 0, 1)])), SensorSize(4, 2), 0)
    with pytest.raises(EncodingError, match="outside the window of 50000 us from 5"):
        six_channels(EventBatch(np.full(1, 4, np.int64), *_xyp([(0, 0, 1)])), SensorSize(4, 2), 5)


def _xyp(rows: list[tuple[int, int, int]]) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint8]]:
    table = np.array(rows, np.int64).reshape(-1, 3)
    return table[:, 0].astype(np.uint16), table[:, 1].astype(np.uint16), table[:, 2].astype(np.uint8)


@given(
    st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 2), st.integers(0, 1), st.integers(0, 1)), max_size=60),
    st.integers(-5, 2**45),
)
def test_six_channels_agree_with_one_pixel_at_a_time(rows: list[tuple[int, int, int, int]], t_start: int) -> None:
    rows.sort()
    events = EventBatch(np.array([t + t_start for t, *_ in rows], np.int64), *_xyp([row[1:] for row in rows]))
    image = six_channels(events, SensorSize(3, 2), t_start, 1_000)
    cells: dict[tuple[int, int, int], list[float]] = {}
    for t, x, y, p in rows:
        cells.setdefault((x, y, p), []).append(t / 1_000)
    most = max((len(times) for times in cells.values()), default=1)
    for y in range(2):
        for x in range(3):
            for p, (hist, mean, std) in {1: (0, 2, 3), 0: (1, 4, 5)}.items():
                times = cells.get((x, y, p), [])
                assert image[y, x, hist] == pytest.approx(2 * len(times) / most - 1, abs=1e-6)
                assert image[y, x, mean] == pytest.approx(2 * statistics.mean(times) - 1 if times else 0, abs=1e-6)
                assert image[y, x, std] == pytest.approx(statistics.stdev(times) if len(times) > 1 else 0, abs=1e-6)
