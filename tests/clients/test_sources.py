"""Every kind of source, opened on a real or generated file of its true format; whole and damaged."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import dv_processing as dv
import h5py
import hdf5plugin
import numpy as np
import pytest
from expelliarmus import Wizard
from rosbags.rosbag1 import Writer as Bag1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Bag2

from clients.errors import CameraError, MissingExtraError, RecordingError, SourceError
from clients.sources import ACCEPTED, open_source
from clients.sources import cameras as cameras_module
from clients.sources.evt import encode_evt3
from clients.sources.rosbag import ARRAY, PACKET, typestore
from clients.sources.video import emulated, scaled
from models.emulator import EmulatorConfig, emulate, initial
from models.events import EventBatch, SensorSize
from service.wire.aedat4 import write_aedat4
from tests.clients.scenes import SENSOR, moving_bars, write_npz
from tests.service.harness import PATIENCE_S, REPOSITORY

LARGE = SensorSize(640, 480)


@pytest.fixture(scope="module")
def bars() -> EventBatch:
    return moving_bars(duration_us=95_000, start_us=1_000)


def assert_equal(found: EventBatch, wanted: EventBatch) -> None:
    assert len(found) == len(wanted)
    for name in ("t", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


def everything(path: Path | str, **settings: Any) -> tuple[SensorSize, str, EventBatch]:
    """Sensor, format and events of a source; read twice, since a recording can be."""
    with open_source(path, **settings) as source:
        events = EventBatch.concatenate(list(source))
        assert_equal(EventBatch.concatenate(list(source)), events)
        assert not source.live
        return source.sensor, source.format, events


# Writers, each of the format's own library


def write_expelliarmus(path: Path, events: EventBatch, kind: str) -> Path:
    records = np.empty(
        len(events),
        {
            "names": ["t", "x", "y", "p"],
            "formats": ["<i8", "<i2", "<i2", "u1"],
            "offsets": [0, 8, 10, 12],
            "itemsize": 16,
        },
    )
    for name in ("t", "x", "y", "p"):
        records[name] = getattr(events, name)
    Wizard(kind).save(path, records)
    return path


def write_dsec(path: Path, events: EventBatch, *, t_offset: int = 0) -> Path:
    """As DSEC's files are: Blosc with ZSTD, and an index of milliseconds."""
    packed = hdf5plugin.Blosc(cname="zstd")
    with h5py.File(path, "w") as file:
        for name, dtype in (("t", "u4"), ("x", "u2"), ("y", "u2"), ("p", "u1")):
            values = getattr(events, name) - t_offset if name == "t" else getattr(events, name)
            file.create_dataset(f"events/{name}", data=values.astype(dtype), **packed)
        marks = np.arange(int(events.t[-1] - t_offset) // 1000 + 1) * 1000
        file["ms_to_idx"] = np.searchsorted(events.t - t_offset, marks).astype("u8")
        file["t_offset"] = np.int64(t_offset)
    return path


def write_ddd17(path: Path, events: EventBatch) -> Path:
    """As the recorder of DDD17 writes: a row of time, cAER header and payload for each packet, empty rows behind."""
    rows = []
    for first in range(0, len(events), 500):
        part = events[first : first + 500]
        words = np.empty((len(part), 2), "<u4")
        words[:, 0] = (part.x.astype("u4") << 17) | (part.y.astype("u4") << 2) | (part.p.astype("u4") << 1) | 1
        words[:, 1] = part.t & 0x7FFFFFFF
        n = len(part)
        rows.append((b"1", struct.pack("<hhiiiiii", 1, 0, 8, 4, 0, n, n, n), words.tobytes()))
    with h5py.File(path, "w") as file:
        table = file.create_dataset("dvs/data", (len(rows) + 3, 3), h5py.vlen_dtype(np.uint8))
        for k, row in enumerate(rows):
            for column, data in enumerate(row):
                table[k, column] = np.frombuffer(data, np.uint8)
    return path


def message_of(store: Any, kind: str, events: EventBatch, version: int, data: bytes, encoding: str, base: int) -> Any:
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    seq = {"seq": 0} if version == 1 else {}
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **seq)
    size = {"height": LARGE.height, "width": LARGE.width}
    if kind == PACKET:
        raw = np.frombuffer(data, np.uint8)
        return types[PACKET](
            header=header, **size, seq=0, time_base=base, encoding=encoding, is_bigendian=False, events=raw
        )
    listed = [
        types["dvs_msgs/msg/Event"](
            x=int(x),
            y=int(y),
            ts=types["builtin_interfaces/msg/Time"](sec=int(t) // 10**6, nanosec=int(t) % 10**6 * 1000),
            polarity=bool(p),
        )
        for t, x, y, p in zip(events.t, events.x, events.y, events.p, strict=True)
    ]
    return types[ARRAY](header=header, **size, events=listed)


def payload_of(events: EventBatch, encoding: str) -> tuple[bytes, int]:
    """Bytes and time base of a packet."""
    base_us = int(events.t[0])
    dt = (events.t - base_us).astype("u8")
    x, y, p = (getattr(events, name).astype("u8") for name in ("x", "y", "p"))
    if encoding == "mono":
        return ((p << 63) | (y << 48) | (x << 32) | dt * 1000).astype("<u8").tobytes(), base_us * 1000
    if encoding == "libcaer":
        words = np.stack([(x << 17) | (y << 2) | (p << 1) | 1, dt], axis=1)
        return words.astype("<u4").tobytes(), base_us * 1000
    return encode_evt3(events)[0], 0


def write_bag(
    path: Path, events: EventBatch, *, version: int, kind: str = PACKET, encoding: str = "mono", mcap: bool = False
) -> Path:
    store = typestore(version)
    if version == 1:
        writer: Any = Bag1(path)
    else:
        writer = Bag2(path, version=8, storage_plugin=StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3)
    with writer:
        connection = writer.add_connection("/events", kind, typestore=store)
        other = writer.add_connection("/words", "std_msgs/msg/String", typestore=store)
        serialize = store.serialize_ros1 if version == 1 else store.serialize_cdr
        word = serialize(store.types["std_msgs/msg/String"](data="hello"), "std_msgs/msg/String")
        for k, first in enumerate(range(0, len(events), 700)):
            part = events[first : first + 700]
            data, base = payload_of(part, encoding)
            writer.write(
                connection, 10 * k, serialize(message_of(store, kind, part, version, data, encoding, base), kind)
            )
            writer.write(other, 10 * k + 1, word)
    return path


def write_video(path: Path, frames: int = 12, *, size: tuple[int, int] = (80, 60)) -> Path:
    """A bright square that moves to the right, ten pictures a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for k in range(frames):
            picture = np.full((size[1], size[0], 3), 30, np.uint8)
            picture[20:40, 5 + 4 * k : 25 + 4 * k] = 220
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


# What is there is read


def test_aedat4(bars: EventBatch, tmp_path: Path) -> None:
    path = tmp_path / "bars.aedat4"
    write_aedat4(path, bars, SENSOR)
    sensor, name, events = everything(path)
    assert (sensor, name) == (SENSOR, "AEDAT4")
    assert_equal(events, bars)


@pytest.mark.parametrize("kind", ["evt2", "evt3", "dat"])
def test_prophesee(bars: EventBatch, tmp_path: Path, kind: str) -> None:
    path = write_expelliarmus(tmp_path / f"bars.{'dat' if kind == 'dat' else 'raw'}", bars, kind)
    sensor, name, events = everything(path, sensor=SENSOR)
    assert sensor == SENSOR
    assert kind.upper() in name
    assert_equal(events, bars)


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ("% evt 3.0\n% geometry 640x480\n", SensorSize(640, 480)),
        ("% evt 3.0\n% format EVT3;height=720;width=1280\n% end\n", SensorSize(1280, 720)),
        ("% evt 3.0\n% sensor_name IMX636\n", SensorSize(1280, 720)),
        ("% evt 3.0\n% plugin_name hal_plugin_gen31_fx3\n", SensorSize(640, 480)),
        ("% evt 3.0\n% sensor_generation 4.1\n", SensorSize(1280, 720)),
    ],
)
def test_the_sensor_of_a_raw_file_is_what_its_header_says(
    bars: EventBatch, tmp_path: Path, header: str, size: SensorSize
) -> None:
    path = tmp_path / "bars.raw"
    path.write_bytes(header.encode() + encode_evt3(bars)[0])
    with open_source(path) as source:
        assert source.sensor == size
    with open_source(path, sensor=SENSOR) as source:
        assert source.sensor == SENSOR


def test_npz(bars: EventBatch, tmp_path: Path) -> None:
    sensor, name, events = everything(write_npz(tmp_path / "bars.npz", bars))
    assert (sensor, name) == (SENSOR, "NPZ")
    assert_equal(events, bars)


@pytest.mark.parametrize("t_offset", [0, 900])
def test_dsec(bars: EventBatch, tmp_path: Path, t_offset: int) -> None:
    path = write_dsec(tmp_path / "events.h5", bars, t_offset=t_offset)
    sensor, name, events = everything(path)
    assert (sensor, name) == (LARGE, "HDF5 (DSEC layout)")
    assert_equal(events, bars)
    with open_source(path) as source:
        late = EventBatch.concatenate(list(source.batches(skip_us=50_500)))
        assert_equal(late, bars[int(np.searchsorted(bars.t, bars.t[0] + 50_500)) :])
        assert len(list(source.batches(skip_us=10**9))) == 0


def test_ddd17(bars: EventBatch, tmp_path: Path) -> None:
    sensor, name, events = everything(write_ddd17(tmp_path / "rec.hdf5", bars))
    assert (sensor, name) == (SensorSize(346, 260), "HDF5 (DDD17)")
    # The camera hung upside down.
    assert_equal(events, EventBatch(bars.t, np.uint16(345) - bars.x, np.uint16(259) - bars.y, bars.p))


@pytest.mark.parametrize(
    ("version", "kind", "encoding", "mcap"),
    [
        (1, PACKET, "mono", False),
        (1, PACKET, "evt3", False),
        (1, ARRAY, "", False),
        (2, PACKET, "libcaer", False),
        (2, PACKET, "evt3", True),
        (2, ARRAY, "", False),
    ],
)
def test_rosbags(bars: EventBatch, tmp_path: Path, version: int, kind: str, encoding: str, mcap: bool) -> None:
    path = tmp_path / ("bars.bag" if version == 1 else "bars")
    write_bag(path, bars, version=version, kind=kind, encoding=encoding, mcap=mcap)
    sensor, name, events = everything(path)
    assert (sensor, name) == (LARGE, f"rosbag ({kind.replace('/msg/', '/')})")
    assert_equal(events, bars)
    with open_source(path, topic="/events") as source:
        assert source.sensor == LARGE
    with pytest.raises(RecordingError, match="no events on /camera"):
        open_source(path, topic="/camera")
    for file in [] if version == 1 else path.glob("*.db3"):
        # The file inside of the folder will do.
        assert_equal(everything(file)[2], bars)


def test_a_video_is_what_the_emulator_makes_of_its_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "square.mp4")
    sensor, name, events = everything(path)
    assert (sensor, name) == (SensorSize(80, 60), "video, through the emulator")
    assert len(events) > 1000
    assert 0 < events.t[0] < 100_000
    assert 1_000_000 < events.t[-1] <= 1_100_000
    # ON in front of the square, OFF behind it.
    first = events[: int(np.searchsorted(events.t, 100_000))]
    assert first.x[first.p == 1].mean() > first.x[first.p == 0].mean() + 10
    with open_source(path, longest_side=40) as small:
        assert small.sensor == SensorSize(40, 30)


def test_frames_whose_time_stands_still_are_left_out() -> None:
    dark, bright = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    config = EmulatorConfig(noise_rate_hz=0)
    batches = list(emulated(iter([(5, dark), (5, bright), (1000, bright)]), config))
    assert len(batches) == 1
    assert_equal(batches[0], emulate(initial(dark, config, t_us=5), bright, 1000, config)[0])
    assert scaled(SensorSize(1920, 1080), 346) == SensorSize(346, 195)
    assert scaled(SensorSize(100, 50), 346) == SensorSize(100, 50)


@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("dvxplorer_320x240_0.6s.aedat4", 111_954, SensorSize(320, 240)),
        ("davis346_lab_0.13s.aedat4", 117_667, SensorSize(346, 260)),
        ("gen3_evt2_0.05s.raw", 539_481, SensorSize(640, 480)),
        ("gen4_evt3_short.raw", 5_000, SensorSize(1280, 720)),
        ("cd_td.dat", 4_407, SensorSize(304, 240)),
        ("ros1_evt3_640x480.bag", 343_474, SensorSize(640, 480)),
    ],
)
def test_real_recordings(recordings: Path, name: str, count: int, size: SensorSize) -> None:
    sensor, _, events = everything(recordings / name)
    assert (sensor, len(events)) == (size, count)
    assert (np.diff(events.t) >= 0).all()


# Cameras and network streams


def store_of(events: EventBatch) -> Any:
    store = dv.EventStore()
    for row in zip(events.t.tolist(), events.x.tolist(), events.y.tolist(), (events.p != 0).tolist(), strict=True):
        store.push_back(row)
    return store


SENDER = """
import sys, time
import dv_processing as dv
width, height, negative = (int(value) for value in sys.argv[1:4])
stream = dv.io.Stream.EventStream(0, "events", "camera", (width, height))
for port in range(21000, 32000):
    try:
        writer = dv.io.NetworkWriter("127.0.0.1", port, stream)
        break
    except RuntimeError:
        continue
print(port, flush=True)
while writer.getClientCount() == 0:
    time.sleep(0.01)
time.sleep(0.1)
for packet in range(5):
    store = dv.EventStore()
    for k in range(100):
        x = -1 if negative and packet == 4 else k % width
        store.push_back((1_000_000 + packet * 10_000 + k * 10, x, 3, k % 2 == 0))
    writer.writeEvents(store)
while writer.getQueuedPacketCount():
    time.sleep(0.01)
time.sleep(float(sys.argv[4]))
"""


@pytest.fixture
def send() -> Iterator[Callable[..., str]]:
    """Start a process that sends events over the network; the address to find it at."""
    processes: list[subprocess.Popen[str]] = []

    def start(*, negative: bool = False, linger_s: float = 0.3) -> str:
        command = [sys.executable, "-c", SENDER, "64", "48", str(int(negative)), str(linger_s)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return f"tcp://127.0.0.1:{process.stdout.readline().strip()}"

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_network_stream_is_read_to_its_last_event(send: Callable[..., str]) -> None:
    with open_source(send()) as source:
        assert source.live
        assert source.sensor == SENSOR
        events = EventBatch.concatenate(list(source))
    assert events.t.tolist() == [1_000_000 + packet * 10_000 + k * 10 for packet in range(5) for k in range(100)]
    assert events.p.tolist() == [1, 0] * 250


def test_a_network_stream_that_is_silent_says_so(send: Callable[..., str]) -> None:
    with open_source(send(linger_s=2.0)) as source:
        batches = iter(source)
        found: list[EventBatch] = []
        while sum(map(len, found)) < 500:
            found.append(next(batches))
        # Nobody who waits for the next batch waits until there are events.
        assert len(next(batches)) == 0
        source.close()
        assert list(batches) == []


def test_negative_coordinates_are_a_fault(send: Callable[..., str]) -> None:
    with open_source(send(negative=True)) as source, pytest.raises(CameraError, match="x = -1, which is no coordinate"):
        list(source)


def test_nobody_sends() -> None:
    with pytest.raises(CameraError, match=r"nobody sends events at tcp://127\.0\.0\.1:1: connect: Connection refused"):
        open_source("tcp://127.0.0.1:1")
    with pytest.raises(CameraError, match=r"no\.such\.host"):
        open_source("tcp://no.such.host.invalid:7777")


def test_no_camera() -> None:
    if dv.io.camera.discover():
        pytest.skip("there is a camera at this machine")
    for address in ("camera://", "camera://DVX-1234"):
        with pytest.raises(CameraError, match="no iniVation camera was found"):
            open_source(address)


def test_no_webcam() -> None:
    with pytest.raises(CameraError, match="no webcam with the number 77"):
        open_source("webcam://77")


def test_waits_of_a_camera_are_short() -> None:
    assert cameras_module.IDLE_S <= 0.05


# What is not there, or not whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t": None}, "lacks 't'"),
        ({"width": None}, "lacks 'width'"),
        ({"width": 0}, "'width' is not a size"),
        ({"height": np.array([48, 48])}, "'height' is not a size"),
        ({"t": np.array([2.0, 3.0])}, "'t' is of float64, not of integers"),
        ({"t": np.array([3, 2])}, "earlier than"),
        ({"t": np.array([-3, 2])}, "-3 µs"),
        ({"t": np.array([1, 2, 3])}, "equal length"),
        ({"x": np.array([-1, 0])}, "'x' holds values that are not between 0 and 65535"),
        ({"x": np.array([64, 0])}, "outside the 64x48 sensor"),
        ({"p": np.array([-1, 1])}, "'p' holds values"),
        ({"p": np.array([2, 1])}, "neither 0"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    two = np.array([0, 1])
    fields: dict[str, Any] = {"t": two, "x": two, "y": two, "p": two, "width": 64, "height": 48, **changes}
    path = tmp_path / "events.npz"
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    with pytest.raises(RecordingError, match=message) as caught:
        everything(path)
    assert str(path) in caught.value.message


def test_times_that_go_back_are_a_fault_unless_they_are_wanted(bars: EventBatch, tmp_path: Path) -> None:
    mixed = EventBatch.concatenate([bars[5000:], bars[:5000]])
    path = write_npz(tmp_path / "mixed.npz", mixed)
    with pytest.raises(RecordingError, match="earlier than"):
        everything(path)
    assert_equal(everything(path, ordered=False)[2], mixed)
    # Within each part they rise, but not from one to the next.
    bag = write_bag(tmp_path / "mixed.bag", EventBatch.concatenate([bars[700:1400], bars[:700]]), version=1)
    with pytest.raises(RecordingError, match="times go back: an event of"):
        everything(bag)


def cut(path: Path) -> Path:
    """The file without its end; one of words that stand for themselves ends within a word."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] if path.suffix in (".raw", ".dat") else data[: int(len(data) * 0.6)])
    return path


@pytest.mark.parametrize("kind", ["aedat4", "raw", "dat", "npz", "h5", "hdf5", "bag", "mp4"])
def test_files_that_are_cut_off(bars: EventBatch, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"bars.{kind}"
    match kind:
        case "aedat4":
            write_aedat4(path, bars, SENSOR)
        case "raw" | "dat":
            write_expelliarmus(path, bars, "evt3" if kind == "raw" else "dat")
        case "npz":
            write_npz(path, bars)
        case "h5":
            write_dsec(path, bars)
        case "hdf5":
            write_ddd17(path, bars)
        case "bag":
            write_bag(path, bars, version=1)
        case "mp4":
            write_video(path)
    with pytest.raises(RecordingError) as caught:
        everything(cut(path), sensor=SENSOR)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", b"", "the file is empty"),
        ("notes.txt", b"not a recording\n", "in no format that can be read"),
        ("events.raw", b"% evt 4.0\n\0\0", "the encoding EVT4"),
        ("events.raw", b"% Date today\n\0\0", "no encoding"),
        ("events.raw", b"% evt 3.0\n\0\0", "does not say how large its sensor is"),
        ("events.dat", b"% Data file containing frames.\n\x00\x10", "not of change-detection events"),
        ("old.aedat", b"#!AER-DAT2.0\r\n", "AEDAT file of version 2.0"),
        ("events.npy", b"\x93NUMPY\x01\x00", "NumPy"),
        ("film.mp4", b"\0\0\0\x18ftypisom" + b"\0" * 20, "cannot be read as video"),
    ],
)
def test_files_that_are_no_recordings(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=message) as caught:
        open_source(path)
    assert str(path) in caught.value.message


def test_a_single_array_is_no_archive(bars: EventBatch, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", bars.t)
    with pytest.raises(RecordingError, match="single NumPy array"):
        open_source(tmp_path / "t.npy")


def test_hdf5_of_something_else(bars: EventBatch, tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["pictures"] = np.zeros(3)
    with pytest.raises(RecordingError, match="no events that can be read, but pictures"):
        open_source(path)
    write_dsec(path, bars)
    with h5py.File(path, "a") as file:
        del file["events/p"]
        file["events/p"] = np.zeros(3, "u1")
    with pytest.raises(RecordingError, match="different lengths"):
        open_source(path)


def test_a_bag_without_events(tmp_path: Path) -> None:
    path = tmp_path / "words.bag"
    store = typestore(1)
    with Bag1(path) as bag:
        connection = bag.add_connection("/words", "std_msgs/msg/String", typestore=store)
        word = store.types["std_msgs/msg/String"](data="hello")
        bag.write(connection, 1, store.serialize_ros1(word, "std_msgs/msg/String"))
    with pytest.raises(RecordingError, match="no events"):
        open_source(path)
    packets = tmp_path / "packets.bag"
    write_bag(packets, moving_bars(duration_us=4_000), version=1, encoding="trigger")
    with pytest.raises(RecordingError, match="encoded as 'trigger'; mono, libcaer, evt2 and evt3 can be read"):
        everything(packets)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("absent.aedat4", "No such file"),
        ("ftp://there", "begins with ftp://, which is not known"),
        ("tcp://host", "should be tcp://HOST:PORT"),
        ("tcp://host:port", "is not an address"),
        ("webcam://front", r"should be webcam://NUMBER"),
    ],
)
def test_addresses_of_nothing(address: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(address)


def test_a_folder_is_a_bag_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"no metadata\.yaml"):
        open_source(tmp_path)


def test_what_is_accepted_is_said_in_full(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("notes")
    with pytest.raises(RecordingError) as caught:
        open_source(tmp_path / "notes")
    assert ACCEPTED in caught.value.message
    for word in (
        "AEDAT4",
        "EVT2",
        "EVT3",
        "DAT",
        "NPZ",
        "DSEC",
        "DDD17",
        "rosbags",
        "camera://",
        "tcp://",
        "webcam://",
    ):
        assert word in ACCEPTED


@pytest.mark.parametrize(("library", "suffix"), [("h5py", "h5"), ("av", "mp4"), ("rosbags", "bag")])
def test_a_library_that_is_missing_is_named_with_its_extra(
    bars: EventBatch, tmp_path: Path, library: str, suffix: str
) -> None:
    path = tmp_path / f"bars.{suffix}"
    {
        "h5": lambda: write_dsec(path, bars),
        "mp4": lambda: write_video(path),
        "bag": lambda: write_bag(path, bars, version=1),
    }[suffix]()
    # A process in which the library cannot be imported.
    code = f"""
import sys
sys.modules[{library!r}] = None
from clients.errors import MissingExtraError
from clients.sources import open_source
try:
    open_source({str(path)!r})
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert f"needs {library}, which is not installed: pip install 'spikeseg[clients-all]'" in done.stdout, done.stderr
    assert issubclass(MissingExtraError, Exception)
