"""A camera that was away for long: a laptop that slept. What one frame costs is bounded, and the stream goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from models.emulator import EmulatorConfig
from models.events import SensorSize
from service.streaming.camera import Camera, CameraConfig
from service.streaming.checkpoints import MEDIA_TYPE, Checkpoint, decode_checkpoint, encode_checkpoint
from service.streaming.windowing import EventStream, StreamConfig, TimeWindows, WindowLimits
from service.wire.frames import Frame, encode_frame
from service.wire.messages import MessageType, encode_message
from tests.service.harness import HttpSession, Result, Stream, hello, make_events, metric, problem_of, running_server

SENSOR = SensorSize(346, 260)
WINDOW_US = 50_000
FRAME_US = 33_000
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
LIMIT = 256  # Windows that one message may close, by default.


@pytest.fixture(scope="module")
def quiet_server() -> Iterator[str]:
    """A server that nobody else uses, since its memory is looked at."""
    with running_server() as url:
        yield url


def scene(index: int, sensor: SensorSize = SENSOR) -> NDArray[np.uint8]:
    """A bright bar that moves over a textured ground."""
    ground = np.random.default_rng(3).integers(40, 120, (sensor.height, sensor.width), np.uint8)
    ground[:, 4 + 3 * (index % 16) : 12 + 3 * (index % 16)] = 230
    return ground


class FrameStream(Stream):
    """A WebSocket session of frames."""

    def __init__(self, server: str, **fields: Any) -> None:
        about = {"width": SENSOR.width, "height": SENSOR.height}
        super().__init__(server, hello(**{"sensor": about, "window": {"us": WINDOW_US}, "frames": {}, **fields}))
        self.shown = 0

    def frame(self, t_us: int) -> list[Result]:
        """Send the next picture."""
        self.shown += 1
        return self.call(lambda n: encode_message(MessageType.FRAME, n, encode_frame(t_us, scene(self.shown))))


@pytest.mark.parametrize("noise_rate_hz", [0.1, 20])
@pytest.mark.parametrize("gap_us", [30 * MINUTE_US, 100 * HOUR_US], ids=["30 minutes", "100 hours"])
def test_a_camera_that_slept_goes_on(quiet_server: str, gap_us: int, noise_rate_hz: float) -> None:
    with FrameStream(quiet_server, frames={"noise_rate_hz": noise_rate_hz}) as stream:
        earlier = [result for index in range(4) for result in stream.frame(index * FRAME_US)]
        before = metric(quiet_server, "process_resident_memory_bytes")
        awake = 3 * FRAME_US + gap_us
        results = stream.frame(awake)
        grown = metric(quiet_server, "process_resident_memory_bytes") - before
        assert grown < 150e6
        # The window that was open, and the last one, which says what lies between.
        opened, last = results
        assert (opened.window, opened.t_end) == (earlier[-1].window + 1, earlier[-1].t_end + WINDOW_US)
        assert opened.events
        assert opened.metadata["skipped"]["gap"] == 0
        assert last.t_end == awake // WINDOW_US * WINDOW_US
        assert last.window == opened.window + (last.t_end - opened.t_end) // WINDOW_US
        assert last.metadata["skipped"]["gap"] == last.window - opened.window - 1
        assert last.events == 0
        more = [result for index in range(1, 6) for result in stream.frame(awake + index * FRAME_US)]
        assert [result.window for result in more] == list(range(last.window + 1, last.window + 1 + len(more)))
        assert len(more) >= 3
        assert all(result.events for result in more)
        assert all(result.metadata["skipped"]["gap"] == 0 for result in more)


def test_the_longest_gap_that_is_looked_through(quiet_server: str) -> None:
    last = LIMIT * WINDOW_US
    with FrameStream(quiet_server, frames={"noise_rate_hz": 0}) as stream:
        stream.frame(0)
        stream.frame(FRAME_US)
        assert len(stream.frame(last)) == LIMIT
    with FrameStream(quiet_server, frames={"noise_rate_hz": 0}) as stream:
        stream.frame(0)
        stream.frame(FRAME_US)
        first, second = stream.frame(last + WINDOW_US)
        assert second.metadata["skipped"]["gap"] == second.window - first.window - 1 == LIMIT - 1


def test_gaps_that_leak_are_counted_in_the_next_window(quiet_server: str) -> None:
    with FrameStream(quiet_server, gaps="leak") as stream:
        stream.frame(0)
        stream.frame(FRAME_US)
        (opened,) = stream.frame(HOUR_US)
        assert opened.window == 0
        first, second = stream.frame(HOUR_US + 2 * WINDOW_US)
        assert (first.metadata["skipped"]["gap"], second.metadata["skipped"]["gap"]) == (first.window - 1, 0)
        assert (first.window, second.window) == (HOUR_US // WINDOW_US, HOUR_US // WINDOW_US + 1)


def test_windows_of_events_are_cut_on_over_a_gap(quiet_server: str) -> None:
    with FrameStream(quiet_server, frames={"noise_rate_hz": 0}, window={"count": 20_000}) as stream:
        assert stream.frame(0) == []
        answered = sum(len(stream.frame(index * FRAME_US)) for index in range(1, 4))
        assert stream.frame(HOUR_US) == []
        answered += sum(len(stream.frame(HOUR_US + index * FRAME_US)) for index in range(1, 4))
        assert answered


def test_overlapping_windows_still_show_what_they_hold() -> None:
    config = StreamConfig(TimeWindows(40, 10))
    stream = EventStream.start(config, WindowLimits(windows=8, events=1000))
    events = make_events((1, 0, 0, 1), (5, 1, 1, 0))
    _, stream = stream.push(events)
    windows, after = stream.pass_over(1_000_003)
    assert [window.t_end for window in windows] == [10, 20, 30, 40, 1_000_000]
    assert [window.gap for window in windows] == [0, 0, 0, 0, 100_000 - 5]
    assert [len(window.events) > 0 for window in windows] == [True, True, True, True, False]
    assert after.index == 100_000
    document, arrays = after.snapshot()
    assert EventStream.restore(config, stream.limits, document, arrays) == after


@pytest.mark.parametrize("most_crossings", [0, 1, 100])
def test_what_one_frame_can_cost_is_known_before(most_crossings: int) -> None:
    # A flash over all pixels, at the most sensitive and the noisiest that a session can be opened with.
    config = CameraConfig(
        EmulatorConfig(
            contrast_on=0.05, contrast_off=0.05, threshold_sigma=0.5, noise_rate_hz=20, most_crossings=most_crossings
        )
    )
    pixels = 48 * 64
    most = 20_000
    camera = Camera(config)
    dark, bright = np.zeros((48, 64), np.uint8), np.full((48, 64), 255, np.uint8)
    _, camera = camera.see(Frame(0, dark))
    for step_us in (1, 10, 1_000, 100_000, 10_000_000, HOUR_US, 10**15):
        if camera.misses(step_us, most):
            after = camera.wake(Frame(step_us, bright))
            assert after.state is not None
            assert after.state.t_us == step_us
            # What it sees now is where it goes on from.
            events, _ = after.see(Frame(step_us + 1, bright))
            assert len(events) < 10
        else:
            events, _ = camera.see(Frame(step_us, bright))
            assert len(events) <= most + (most_crossings or 400) * pixels
    assert camera.misses(10**15, most)
    assert not camera.misses(1_000, most)


# Snapshots that bring settings above the limits ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(quiet_server: str) -> Checkpoint:
    """A session of frames that has seen two of them."""
    with httpx.Client(base_url=quiet_server, timeout=60) as http:
        session = HttpSession(http, frames={}, sensor={"width": 64, "height": 48})
        for index in range(2):
            picture = scene(index, SensorSize(64, 48))
            response = http.post(
                f"{session.path}/frames",
                params={"t_us": index * FRAME_US},
                content=picture.tobytes(),
                headers={"Content-Type": "application/octet-stream"},
            )
            assert response.status_code == 200
        return decode_checkpoint(http.get(f"{session.path}/state").content)


@pytest.mark.parametrize(
    ("place", "value", "names"),
    [
        ("camera.config.emulator.noise_rate_hz", 1e9, "noise_rate_hz"),
        ("camera.config.emulator.contrast_on", 1e-6, "contrast_on"),
        ("camera.config.emulator.contrast_off", 0.01, "contrast_off"),
        ("camera.config.emulator.threshold_sigma", 100.0, "threshold_sigma"),
        ("camera.config.emulator.refractory_us", 2**40, "refractory_us"),
        ("camera.config.emulator.dark_level", 1e-30, "dark_level"),
        ("camera.config.emulator.most_crossings", 0, "most_crossings"),
        ("camera.config.emulator.most_crossings", 32_000, "most_crossings"),
        ("config.window", {"kind": "time", "us": 10_000_000, "stride_us": 1}, "stride_us"),
        ("config.window", {"kind": "time", "us": 11_000_000, "stride_us": 11_000_000}, "window.us"),
        ("config.window", {"kind": "count", "count": 5_000_000, "stride": 5_000_000}, "window.count"),
        ("config.reorder_us", 2**40, "reorder_us"),
        ("config.wrap_bits", 8, "wrap_bits"),
        ("backlog.windows", 2**30, "queue.windows"),
        ("backlog.deadline_s", 1e30, "deadline_ms"),
    ],
)
def test_a_snapshot_with_settings_above_the_limits(
    quiet_server: str, seen: Checkpoint, place: str, value: object, names: str
) -> None:
    *path, last = place.split(".")
    header = _copied(seen.header)
    if path and path[0] == "config":
        # Settings of events: frames have none of them.
        header["camera"] = None
    inner = header
    for name in path:
        inner = inner[name]
    inner[last] = value
    arrays = {name: array for name, array in seen.arrays.items() if header["camera"] or not name.startswith("camera/")}
    if "kind" in (value if isinstance(value, dict) else {}):
        start = EventStream.start(StreamConfig(TimeWindows(50_000, 50_000)), WindowLimits(256, 4_000_000))
        header["stream"], _ = start.snapshot()
        if value["kind"] == "count":  # type: ignore[index]
            header["stream"]["windows"] = {"index": 0, "horizon": 0, "shared": 0}
        arrays = {name: array[:0] if name.startswith("stream/") else array for name, array in arrays.items()}
    if last == "wrap_bits":
        header["stream"]["clock"] = {"turns": 0, "last": None}
    if last == "reorder_us":
        arrays |= {f"stream/held.{name}": arrays[f"stream/pending.{name}"][:0] for name in "txyp"}
    with httpx.Client(base_url=quiet_server, timeout=60) as http:
        body = encode_checkpoint(Checkpoint(header, arrays))
        document = problem_of(http.post("/v1/sessions", content=body, headers={"Content-Type": MEDIA_TYPE}), 422)
    assert names in document["detail"]


@pytest.mark.parametrize("name", ["log_intensity", "reference"])
def test_a_snapshot_with_a_light_that_cannot_be(quiet_server: str, seen: Checkpoint, name: str) -> None:
    arrays = dict(seen.arrays) | {f"camera/{name}": np.full((48, 64), 1e30, np.float32)}
    with httpx.Client(base_url=quiet_server, timeout=60) as http:
        body = encode_checkpoint(Checkpoint(seen.header, arrays))
        document = problem_of(http.post("/v1/sessions", content=body, headers={"Content-Type": MEDIA_TYPE}), 422)
    assert name in document["detail"]


def test_an_untouched_snapshot_goes_on(quiet_server: str, seen: Checkpoint) -> None:
    with httpx.Client(base_url=quiet_server, timeout=60) as http:
        body = encode_checkpoint(replace(seen))
        assert http.post("/v1/sessions", content=body, headers={"Content-Type": MEDIA_TYPE}).status_code == 201


def _copied(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: _copied(value) for name, value in document.items()}
    return [_copied(item) for item in document] if isinstance(document, list) else document
