"""AEDAT4 recordings: round trips, real files, and files that would crash or hang their parser."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from models.events import EventBatch, SensorSize
from service.wire import aedat4
from service.wire.aedat4 import Aedat4Error, Aedat4Reader, read_aedat4, read_aedat4_file, write_aedat4
from tests.service.mutations import damaged_recording

SENSOR = SensorSize(346, 260)
N_MUTATIONS = 100


def some_events(n: int, seed: int = 0) -> EventBatch:
    rng = np.random.default_rng(seed)
    return EventBatch(
        np.sort(rng.integers(0, 1_000_000, n)),
        rng.integers(0, SENSOR.width, n).astype(np.uint16),
        rng.integers(0, SENSOR.height, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
    )


def assert_equal(a: EventBatch, b: EventBatch) -> None:
    for name in ("t", "x", "y", "p"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def dv_file(path: Path, events: list[tuple[int, int, int, bool]], *, size: tuple[int, int] = (346, 260)) -> Path:
    """A file as dv-processing writes it, with none of the checks of ``write_aedat4``."""
    import dv_processing as dv

    writer = dv.io.MonoCameraWriter(str(path), dv.io.MonoCameraWriter.EventOnlyConfig("raw", size))
    store = dv.EventStore()
    for event in events:
        store.push_back(event)
    writer.writeEvents(store)
    del writer
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("aedat4") / "some.aedat4"
    write_aedat4(path, some_events(100_000), SENSOR)
    return path.read_bytes()


@pytest.mark.parametrize("compression", ["none", "lz4", "lz4_high", "zstd", "zstd_high"])
@pytest.mark.parametrize("n", [0, 1, 150_000])
def test_round_trip(tmp_path: Path, compression: str, n: int) -> None:
    path = tmp_path / "some.aedat4"
    path.write_bytes(b"an older file")
    events = some_events(n)
    write_aedat4(path, events, SENSOR, compression=compression)  # type: ignore[arg-type]
    for read, sensor in (read_aedat4(path.read_bytes()), read_aedat4_file(path)):
        assert sensor == SENSOR
        assert_equal(read, events)


def test_chunks_are_bounded_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "some.aedat4"
    events = some_events(200_000)
    write_aedat4(path, events, SENSOR)
    with Aedat4Reader(path) as reader:
        chunks = list(reader)
        assert list(reader) == []
    assert len(chunks) >= 3
    assert max(map(len, chunks)) <= 65_536
    assert_equal(EventBatch.concatenate(chunks), events)


def test_a_reader_that_is_left_early_ends_its_worker(tmp_path: Path) -> None:
    path = tmp_path / "some.aedat4"
    write_aedat4(path, some_events(200_000), SENSOR)
    with Aedat4Reader(path) as reader:
        next(reader)
        process = reader._process
    assert process.returncode is not None
    assert list(reader) == []


def test_the_suffix_of_a_file_that_is_read_does_not_matter(tmp_path: Path, recording: bytes) -> None:
    path = tmp_path / "some recording ü.bin"
    path.write_bytes(recording)
    assert_equal(read_aedat4_file(path)[0], some_events(100_000))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello, world" * 10, "not an AEDAT4 file"),
        (b"#!AER-DAT2.0\r\n" + bytes(100), "version 2.0"),
        (b"#!AER-DAT4.0\r\n", "damaged"),
        (b"#!AER-DAT4.0\r\n" + bytes(1000), "damaged"),
    ],
)
def test_what_is_no_recording(data: bytes, message: str) -> None:
    with pytest.raises(Aedat4Error, match=message):
        read_aedat4(data)


def test_a_file_without_events(tmp_path: Path) -> None:
    import dv_processing as dv

    path = tmp_path / "frames.aedat4"
    config = dv.io.MonoCameraWriter.FrameOnlyConfig("frames", (346, 260))
    writer = dv.io.MonoCameraWriter(str(path), config)
    writer.writeFrame(dv.Frame(1000, np.zeros((260, 346), np.uint8)))
    del writer
    with pytest.raises(Aedat4Error, match="no event stream"):
        read_aedat4_file(path)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ((10, -1, 5, True), "negative coordinates"),
        ((10, 5, -1, True), "negative coordinates"),
        ((10, 346, 5, True), r"\(346, 5\), outside of its sensor of 346x260"),
        ((10, 5, 260, True), r"\(5, 260\), outside of its sensor of 346x260"),
    ],
)
def test_events_that_cannot_be(tmp_path: Path, event: tuple[int, int, int, bool], message: str) -> None:
    with pytest.raises(Aedat4Error, match=message):
        read_aedat4_file(dv_file(tmp_path / "bad.aedat4", [(0, 1, 1, True), event]))


@pytest.mark.parametrize(("at", "time", "message"), [(1, 1_000_000_004, "times go back"), (0, -5, "negative times")])
def test_times_that_cannot_be(tmp_path: Path, at: int, time: int, message: str) -> None:
    # dv-processing refuses to write such a file, so a time is overwritten in one that is not compressed.
    path = tmp_path / "back.aedat4"
    t = np.array([1_000_000_001, 1_000_000_002, 1_000_000_003])
    zeros = np.zeros(3, np.uint16)
    write_aedat4(path, EventBatch(t, zeros, zeros, np.ones(3, np.uint8)), SENSOR, compression="none")
    data = path.read_bytes()
    where = data.index(b"".join(int(v).to_bytes(8, "little") + bytes(8)[:4] + b"\x01\0\0\0" for v in t)) + 16 * at
    with pytest.raises(Aedat4Error, match=message):
        read_aedat4(data[:where] + time.to_bytes(8, "little", signed=True) + data[where + 8 :])


def test_a_file_that_is_cut_off(recording: bytes) -> None:
    with pytest.raises(Aedat4Error, match="cut off or damaged"):
        read_aedat4(recording[: len(recording) // 2])


def test_more_events_than_allowed(recording: bytes) -> None:
    with pytest.raises(Aedat4Error, match="more than 99999 events"):
        read_aedat4(recording, max_events=99_999)


def test_a_parser_that_takes_too_long(recording: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(aedat4, "WORKER", sleeper)
    with pytest.raises(Aedat4Error, match="took too long"):
        read_aedat4(recording, timeout_s=0.5)


def test_a_parser_that_burns_the_processor(recording: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aedat4, "PACKET_CPU_SECONDS", 0.05)
    damaged = bytearray(recording)
    middle = len(damaged) // 2
    damaged[middle : middle + 2048] = np.random.default_rng(0).bytes(2048)
    with pytest.raises(Aedat4Error, match="took too long"):
        read_aedat4(bytes(damaged))


@pytest.mark.parametrize(
    "script",
    [
        "import os; os.abort()",
        "print('hello')",
        "import sys; sys.stdout.buffer.write(b'E' + (2**32 - 1).to_bytes(4, 'little'))",
        "import sys; sys.stdout.buffer.write(b'S' + (8).to_bytes(4, 'little') + bytes(8))",
        "import sys; sys.stdout.buffer.write(b'Z' + bytes(4))",
    ],
)
def test_a_parser_that_breaks_down(
    recording: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(script)
    monkeypatch.setattr(aedat4, "WORKER", worker)
    with pytest.raises(Aedat4Error, match=r"broke down|size of 0x0"):
        read_aedat4(recording)


def test_memory_is_bounded(recording: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aedat4, "MEMORY_BYTES", 64 << 20)
    with pytest.raises(Aedat4Error):
        read_aedat4(recording)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_aedat4_file(tmp_path / "none.aedat4")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    events = some_events(10)
    with pytest.raises(Aedat4Error, match="must end in"):
        write_aedat4(tmp_path / "some.bin", events, SENSOR)
    with pytest.raises(Aedat4Error, match="outside"):
        write_aedat4(tmp_path / "some.aedat4", events, SensorSize(10, 10))
    with pytest.raises(Aedat4Error, match="go back"):
        write_aedat4(tmp_path / "some.aedat4", events[::-1], SENSOR)
    with pytest.raises(FileNotFoundError):
        write_aedat4(tmp_path / "none" / "some.aedat4", events, SENSOR)


def test_the_codecs_are_imported_without_dv() -> None:
    code = "import sys, service.wire.aedat4; assert 'dv_processing' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_damaged_files_never_crash_or_hang(
    recording: bytes, data_root: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aedat4, "OPEN_CPU_SECONDS", 0.1)
    monkeypatch.setattr(aedat4, "PACKET_CPU_SECONDS", 0.05)
    sources = [recording]
    if data_root is not None:
        sources.append((data_root / "recordings" / "dvxplorer_320x240_0.6s.aedat4").read_bytes())

    def outcome(seed: int) -> bool:
        try:
            events, sensor = read_aedat4(damaged_recording(sources[seed % len(sources)], seed))
        except Aedat4Error:
            return False
        assert not len(events) or (events.x.max() < sensor.width and (np.diff(events.t) >= 0).all())
        return True

    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(outcome, range(N_MUTATIONS)))
    assert sum(read) < N_MUTATIONS // 2


@pytest.fixture(scope="module")
def data_root() -> Path | None:
    root = os.environ.get("SPIKESEG_DATA")
    return Path(root) if root else None


@pytest.mark.parametrize(
    ("name", "count", "sensor"),
    [
        ("dvxplorer_320x240_0.6s.aedat4", 111_954, SensorSize(320, 240)),
        ("davis346_lab_0.13s.aedat4", 117_667, SensorSize(346, 260)),
    ],
)
def test_real_recordings(data_root: Path | None, tmp_path: Path, name: str, count: int, sensor: SensorSize) -> None:
    if data_root is None:
        pytest.skip("SPIKESEG_DATA is not set: the real recordings are kept outside of the project")
    events, size = read_aedat4_file(data_root / "recordings" / name)
    assert (len(events), size) == (count, sensor)
    assert (np.diff(events.t) >= 0).all()
    assert set(np.unique(events.p)) == {0, 1}
    copy = tmp_path / "copy.aedat4"
    write_aedat4(copy, events, size)
    again, _ = read_aedat4_file(copy)
    assert_equal(again, events)
