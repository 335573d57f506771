"""Frames through the clients give what they give when they are sent by hand, whatever becomes of the connection."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clients import (
    Advance,
    AsyncClient,
    Client,
    Frame,
    FrameOptions,
    Result,
    Retries,
    StateChange,
    StreamOptions,
    StreamState,
    Timeouts,
    open_source,
    overlay,
    stream_protocol,
)
from clients.cli.main import main
from clients.errors import (
    ConnectionLostError,
    HelloError,
    InputError,
    SourceError,
    UnknownModelError,
    UnknownSessionError,
)
from clients.outputs import WindowFrames
from clients.pictures import media_type, picture_file
from clients.sources import FrameSource, play_frames
from clients.stream_protocol import StreamProtocol
from models.emulator import EmulatorConfig, emulate, initial
from models.events import EventBatch, SensorSize
from service.wire.errors import FrameError
from service.wire.frames import decode_frame, encode_frame
from service.wire.messages import MessageType, decode_message, encode_ack, encode_message
from tests.clients.cutting_proxy import Cut, CuttingProxy, Direction
from tests.clients.test_client import assert_same, results_until
from tests.clients.test_rerun import pictures
from tests.clients.test_sources import write_video
from tests.clients.test_stream_protocol import result_of, sent, welcome
from tests.service.harness import PATIENCE_S, SENSOR, WINDOW_US, Stream, hello, make_events
from tests.service.harness import Result as HandResult
from tests.service.real_servers import MissingProgramError, running_redis
from tests.service.replicas import Replica

FRAME_US = 8_000
COUNT = 40
FRAMED = StreamOptions(frames=FrameOptions())
Grey = NDArray[np.uint8]


def scene(index: int) -> Grey:
    """A bright bar that moves over a textured ground, round and round."""
    ground = np.random.default_rng(3).integers(40, 120, (SENSOR.height, SENSOR.width), np.uint8)
    ground[:, np.arange(4 + 3 * index, 12 + 3 * index) % SENSOR.width] = 230
    return ground


def png(pixels: Grey) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def frame(index: int) -> Frame:
    """One of the frames: as grey, as RGB, or as a file."""
    grey = scene(index)
    pictures = (grey, np.repeat(grey[..., None], 3, axis=2), png(grey))
    return Frame(1_000 + FRAME_US * index, pictures[index % 3])


FRAMES = [frame(index) for index in range(COUNT)]


@pytest.fixture(scope="module")
def by_hand(server: str) -> list[HandResult]:
    """What a plain WebSocket gives, one frame after the other."""
    results = []
    with Stream(server, hello(frames={})) as stream:
        for index in range(COUNT):
            payload = encode_frame(FRAMES[index].t_us, scene(index))
            results += stream.call(lambda n, payload=payload: encode_message(MessageType.FRAME, n, payload))
        results += stream.end()
    assert len(results) == 16
    return results


@pytest.fixture(scope="module")
def undisturbed(server: str) -> list[Result]:
    with Client(server, timeout=PATIENCE_S) as client:
        return list(client.stream(FRAMES, SENSOR, window_us=WINDOW_US, options=FRAMED))


@pytest.fixture(scope="module")
def traffic(server: str) -> dict[Direction, int]:
    """Bytes that pass each way when nothing goes wrong."""
    with CuttingProxy(server, []) as proxy, Client(proxy.url, timeout=PATIENCE_S) as client:
        list(client.stream(FRAMES, SENSOR, window_us=WINDOW_US, options=FRAMED))
        return dict(proxy.passed)


def streamed(
    kind: str, url: str, frames: Iterable[Frame], options: StreamOptions = FRAMED, **more: Any
) -> list[Result]:
    """All results, by one client or the other."""
    found: list[Result] = []
    if kind == "sync":
        with Client(url, timeout=PATIENCE_S) as client:
            found.extend(client.stream(frames, SENSOR, window_us=WINDOW_US, options=options, **more))
        return found

    async def run() -> None:
        async with AsyncClient(url, timeout=PATIENCE_S) as client:
            async for result in client.stream(frames, SENSOR, window_us=WINDOW_US, options=options, **more):
                found.append(result)  # noqa: PERF401 as the other one does

    asyncio.run(run())
    return found


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_frames_are_answered_as_those_that_are_sent_by_hand(server: str, by_hand: list[HandResult], kind: str) -> None:
    results = streamed(kind, server, FRAMES)
    assert [result.window for result in results] == [wanted.window for wanted in by_hand]
    for result, wanted in zip(results, by_hand, strict=True):
        assert (result.t_start, result.t_end, result.events) == (wanted.t_start, wanted.t_end, wanted.events)
        np.testing.assert_array_equal(result.mask, wanted.mask)
        assert result.activity is not None
        assert wanted.activity is not None
        assert [layer.spikes for layer in result.activity.layers] == [n["spikes"] for n in wanted.activity["layers"]]


def test_frames_are_answered_as_the_events_that_the_emulator_makes_of_them(
    server: str, undisturbed: list[Result]
) -> None:
    config = EmulatorConfig()
    state = initial(scene(0), config, t_us=FRAMES[0].t_us)
    batches: list[EventBatch] = []
    for index in range(1, COUNT):
        events, state = emulate(state, scene(index), FRAMES[index].t_us, config)
        batches.append(events)
    with Client(server, timeout=PATIENCE_S) as client:
        assert_same(client.stream(batches, SENSOR, window_us=WINDOW_US), undisturbed)


def test_frames_are_taken_no_faster_than_they_are_answered(server: str) -> None:
    taken = 0

    def source() -> Iterator[Frame]:
        nonlocal taken
        for index in range(COUNT):
            taken += 1
            yield FRAMES[index]

    for result in Client(server, timeout=PATIENCE_S).stream(source(), SENSOR, window_us=WINDOW_US, options=FRAMED):
        if result.window < 15:
            # The frame that closes this window, those in flight, and one that waits to be sent.
            assert taken <= (result.t_end - 1_000) // FRAME_US + 2 + stream_protocol.MAX_MESSAGES_IN_FLIGHT + 1


@pytest.mark.parametrize(
    ("kind", "direction", "part"),
    [
        ("sync", "up", 0.01),
        ("sync", "up", 0.5),
        ("sync", "down", 0.5),
        ("async", "up", 0.4),
        ("async", "down", 0.3),
        ("sync", "down", 0.97),
    ],
)
def test_a_connection_that_is_cut_costs_no_frame_and_no_bit(
    server: str,
    undisturbed: list[Result],
    traffic: dict[Direction, int],
    kind: str,
    direction: Direction,
    part: float,
) -> None:
    with CuttingProxy(server, [Cut(direction, int(traffic[direction] * part))]) as proxy:
        assert_same(streamed(kind, proxy.url, FRAMES), undisturbed)
        assert proxy.connections == 2


def test_a_connection_that_is_cut_again_and_again(server: str, undisturbed: list[Result]) -> None:
    cuts: list[Cut | None] = [Cut("up", 6_000), Cut("down", 4_000), Cut("up", 30_000, reset=True), Cut("down", 9_000)]
    with CuttingProxy(server, cuts) as proxy, Client(proxy.url, timeout=PATIENCE_S) as client:
        with client.stream(FRAMES, SENSOR, window_us=WINDOW_US, options=FRAMED) as stream:
            assert_same(stream, undisturbed)
            assert 1 <= stream.reconnects <= 4
        assert proxy.connections == 5


def over_a_restart(replica: Replica, kind: str, options: StreamOptions) -> tuple[list[Result], list[StreamState]]:
    """Results of a stream whose server vanishes in its middle and starts anew."""
    back, halfway = threading.Event(), threading.Event()
    found: list[Result] = []
    changes: list[StateChange] = []

    def paced() -> Iterator[Frame]:
        for index, item in enumerate(FRAMES):
            if index == COUNT // 2:
                halfway.set()
                assert back.wait(PATIENCE_S)
            time.sleep(0.01)
            yield item

    thread = threading.Thread(
        target=lambda: found.extend(streamed(kind, replica.url, paced(), options, on_state=changes.append))
    )
    thread.start()
    assert halfway.wait(PATIENCE_S)
    replica.kill()
    replica.start()
    replica.wait_until_ready()
    back.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    return found, [change.after for change in changes]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_of_frames_survives_a_restart_by_the_state_store(
    undisturbed: list[Result], tmp_path: Path, kind: str
) -> None:
    try:
        with running_redis(tmp_path) as redis:
            replica = Replica("restarted", tmp_path, {"store_url": redis.url, "checkpoint_seconds": 0.05})
            replica.start()
            replica.wait_until_ready()
            try:
                found, states = over_a_restart(replica, kind, FRAMED)
            finally:
                replica.kill()
    except MissingProgramError as error:
        pytest.skip(str(error))
    assert_same(found, undisturbed)
    assert not any(result.skipped.restart for result in found)
    assert StreamState.DEGRADED in states


def test_a_stream_of_frames_goes_on_though_its_session_is_lost(undisturbed: list[Result], tmp_path: Path) -> None:
    replica = Replica("forgetful", tmp_path, {})
    replica.start()
    replica.wait_until_ready()
    try:
        found, _ = over_a_restart(replica, "sync", StreamOptions(frames=FrameOptions(), lost_session="restart"))
    finally:
        replica.kill()
    assert [(result.window, result.t_start) for result in found] == [(r.window, r.t_start) for r in undisturbed]
    [first] = [result.window for result in found if result.skipped.restart]
    assert_same(found[:first], undisturbed[:first])
    # The sensor and the membranes have been warmed up with the last frames.
    same = [np.mean(left.mask == right.mask) for left, right in zip(found, undisturbed, strict=True)]
    assert np.mean(same[first:]) > 0.9


def framed_protocol(**options: Any) -> StreamProtocol:
    protocol = StreamProtocol(
        {"type": "hello"},
        SENSOR,
        StreamOptions(frames=FrameOptions(), **options),
        timeouts=Timeouts(),
        retries=Retries(attempts=2),
    )
    protocol.open()
    protocol.welcome(welcome())
    return protocol


def times_of(sent_messages: list[bytes]) -> list[int]:
    messages = [decode_message(message) for message in sent_messages]
    return [decode_frame(message.payload, SENSOR).t_us for message in messages if message.type is MessageType.FRAME]


def test_a_new_session_is_fed_with_the_last_frames_and_a_still_scene_counts_as_passed_over() -> None:
    protocol = framed_protocol(lost_session="restart")
    blank = np.zeros((SENSOR.height, SENSOR.width), np.uint8)
    for number in range(1, 41):
        protocol.feed(Frame(number * WINDOW_US, blank))
        assert times_of(sent(protocol)) == [number * WINDOW_US]
        protocol.receive(encode_ack(number, number, 32))
    for window in range(39):
        assert protocol.receive(result_of(window, window * WINDOW_US)) is not None
    protocol.lost(ConnectionLostError("gone"))
    protocol.lost(UnknownSessionError("no such session"))
    protocol.open()
    protocol.welcome(welcome(session="another"))
    again: list[int] = []
    while new := sent(protocol):
        again += times_of(new)
        protocol.receive(encode_ack(len(again), len(again), 32))
    assert again == [number * WINDOW_US for number in range(40 - stream_protocol.WARM_UP_WINDOWS - 1, 41)]
    # The first of its windows with an event is two later than the one that was to come.
    result = protocol.receive(result_of(0, 41 * WINDOW_US))
    assert result is not None
    assert (result.window, result.skipped.gap, result.skipped.restart) == (41, 2, True)


def test_a_frame_that_closes_many_windows_is_sent_alone() -> None:
    protocol = framed_protocol()
    blank = np.zeros((SENSOR.height, SENSOR.width), np.uint8)
    for t_us in (0, WINDOW_US):
        protocol.feed(Frame(t_us, blank))
        assert len(sent(protocol)) == 1
    protocol.feed(Frame(WINDOW_US * 20, blank))
    assert sent(protocol) == []
    assert not protocol.hungry
    protocol.receive(encode_ack(2, 2, 32))
    assert times_of(sent(protocol)) == [WINDOW_US * 20]


GREY = scene(0)
Refused = tuple[StreamOptions, list[Any], str, str | None]
REFUSED: dict[str, Refused] = {
    "another size": (FRAMED, [Frame(2_000, GREY[:10])], "the frame is 64x10, the session's sensor 64x48", "width"),
    "a file of another size": (FRAMED, [Frame(2_000, png(GREY[:10]))], "the frame is 64x10", "width"),
    "no picture": (FRAMED, [Frame(2_000, b"GIF89a")], "not a PNG, JPEG or WebP", None),
    "a broken file": (FRAMED, [Frame(2_000, png(GREY)[:60])], "picture that can be read", None),
    "other pixels": (FRAMED, [Frame(2_000, GREY / 255)], "uint8 pixels", None),  # type: ignore[arg-type]
    "half a microsecond": (FRAMED, [Frame(2_000.5, GREY)], "whole microseconds", "t_us"),  # type: ignore[arg-type]
    "before the sensor's clock": (FRAMED, [Frame(-1, GREY)], "not -1", "t_us"),
    "time that stands still": (FRAMED, [Frame(1_000, GREY)], "is not after the last frame's, 1000 µs", "t_us"),
    "events": (FRAMED, [make_events((2_000, 1, 1, 1))], "takes frames, whose times close its windows", None),
    "Advance": (FRAMED, [Advance(2_000)], "takes frames, whose times close its windows, not Advance", None),
    "frames among events": (StreamOptions(), [Frame(2_000, GREY)], r"frames=FrameOptions\(\)", None),
    "something else": (FRAMED, ["frame"], "or else frames, not str", None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_an_error_that_says_why(server: str, case: str) -> None:
    options, items, message, field = REFUSED[case]
    before: list[Any] = [Frame(1_000, GREY)] if options.frames is not None else []
    with Client(server, timeout=PATIENCE_S) as client:
        stream = client.stream([*before, *items], SENSOR, window_us=WINDOW_US, options=options)
        with pytest.raises(InputError, match=message) as refused:
            list(stream)
    assert refused.value.fields == (() if field is None else (field,))


def test_what_came_before_a_frame_that_cannot_be_used_is_answered(server: str, undisturbed: list[Result]) -> None:
    with Client(server, timeout=PATIENCE_S) as client:
        stream = client.stream([*FRAMES[:20], FRAMES[3]], SENSOR, window_us=WINDOW_US, options=FRAMED)
        results, _ = results_until(InputError, stream)
    assert_same(results, undisturbed[: len(results)])
    assert len(results) == 7


def test_a_frame_larger_than_the_service_takes_is_not_sent(small_server: str) -> None:
    size = SensorSize(128, 96)
    grey = np.zeros((96, 128), np.uint8)
    with Client(small_server, timeout=PATIENCE_S) as client:
        stream = client.stream([Frame(0, grey)], size, options=FRAMED)
        with pytest.raises(InputError, match="12320 bytes is above the 10000 that the service takes"):
            list(stream)
        # As a file it fits.
        assert list(client.stream([Frame(0, png(grey)), Frame(5, png(grey))], size, options=FRAMED)) == []


def test_how_frames_become_events_can_be_chosen(server: str, undisturbed: list[Result]) -> None:
    options = StreamOptions(frames=FrameOptions(contrast_on=0.5, contrast_off=0.4, noise_rate_hz=0.0, seed=7))
    assert sum(r.events for r in streamed("sync", server, FRAMES, options)) < sum(r.events for r in undisturbed)
    with Client(server, timeout=PATIENCE_S) as client:
        for wrong, field in (
            (StreamOptions(frames=FrameOptions(contrast_on=0.01)), "frames.contrast_on"),
            (StreamOptions(frames=FrameOptions(), reorder_us=5), ""),
        ):
            with pytest.raises(HelloError) as refused:
                client.stream(FRAMES, SENSOR, options=wrong)
            assert refused.value.fields == (field,)


def test_a_program_with_a_loop_of_its_own_follows_frames(server: str, undisturbed: list[Result]) -> None:
    heard: list[Result] = []
    with (
        Client(server, timeout=PATIENCE_S) as client,
        client.follow(FRAMES, SENSOR, window_us=WINDOW_US, options=FRAMED, on_result=heard.append) as follower,
    ):
        assert follower.wait(PATIENCE_S)
    assert_same(heard, undisturbed)


# Pictures


def both(url: str) -> list[Callable[..., Any]]:
    """``segment_picture`` of both clients."""

    def now(*arguments: Any, **options: Any) -> Any:
        with Client(url, timeout=PATIENCE_S) as client:
            return client.segment_picture(*arguments, **options)

    def later(*arguments: Any, **options: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, timeout=PATIENCE_S) as client:
                return await client.segment_picture(*arguments, **options)

        return asyncio.run(run())

    return [now, later]


def test_a_picture_goes_through_a_network_of_frames(server: str) -> None:
    colours = np.random.default_rng(4).integers(0, 256, (40, 56, 3), np.uint8)
    masks = [segment(colours) for segment in both(server)]
    masks += [segment(png(colours), model="paper-deeplab-voc") for segment in both(server)]
    for result in masks:
        assert (result.mask.shape, result.mask.dtype) == ((40, 56), np.uint8)
        assert result.activity.sops > 0
        assert result.latency.total_ms >= result.latency.compute_ms > 0
        assert len(result.class_share) == 21
        np.testing.assert_array_equal(result.mask, masks[0].mask)
        assert not result.mask.flags.writeable
        with Image.open(io.BytesIO(result.png)) as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), result.mask)


def test_a_picture_that_cannot_be_segmented_is_an_error(server: str) -> None:
    for segment in both(server):
        with pytest.raises(UnknownModelError, match="segments events, not frames"):
            segment(GREY, model="edge-s")
        with pytest.raises(InputError, match="too large"):
            segment(np.zeros((1, 5000), np.uint8))
        with pytest.raises(InputError, match="uint8 pixels"):
            segment(np.zeros((4, 4, 4), np.uint8))
        with pytest.raises(InputError, match="not a PNG, JPEG or WebP file"):
            segment(b"GIF89a")


def test_the_command_segments_a_picture(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "scene.jpg", tmp_path / "mask.png"
    Image.fromarray(GREY).save(path, "JPEG")
    assert main(["segment", str(path), "--url", server, "--out", str(out)]) == 0
    assert f"{out}: 64x48, " in capsys.readouterr().out
    with Client(server, timeout=PATIENCE_S) as client:
        assert out.read_bytes() == client.segment_picture(path.read_bytes()).png
    assert main(["segment", str(path), "--url", server, "--window-ms", "20"]) == 2
    assert "do not go with a picture" in capsys.readouterr().err


def test_files_are_told_apart_by_their_beginning() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(GREY).save(file, kind)
        assert media_type(file.getvalue()) == f"image/{kind.lower()}"
        assert picture_file(file.getvalue()) == (f"image/{kind.lower()}", file.getvalue())
    with pytest.raises(FrameError, match="bytes of a file, not str"):
        media_type("picture.png")  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="no pixels"):
        picture_file(np.zeros((0, 4), np.uint8))


# Video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "square.mp4")


def test_a_video_gives_its_frames_as_a_player_does(video: Path) -> None:
    with open_source(video) as source:
        assert isinstance(source, FrameSource)
        assert [item.t_us for item in source.frames()] == [100_000 * k for k in range(12)]
        assert all(np.shape(item.picture) == (60, 80) for item in source.frames())
        some = list(play_frames(source, skip_us=250_000, duration_us=300_000))
        assert [item.t_us for item in some] == [300_000, 400_000, 500_000]
        twice = [item.t_us for item in play_frames(source, skip_us=1_000_000, loops=2)]
        assert twice == [1_000_000, 1_100_000, 1_200_000, 1_300_000]
        assert list(play_frames(source, skip_us=9_000_000, loops=None)) == []
        clock = [100.0]

        def sleep(seconds: float) -> None:
            clock[0] += seconds

        waits = [round(clock[0] - 100.0, 6) for _ in play_frames(source, speed=2.0, now=lambda: clock[0], sleep=sleep)]
        assert waits == pytest.approx([0.05 * k for k in range(12)])
        with pytest.raises(SourceError, match="speed"):
            next(play_frames(source, speed=0))


def test_the_command_emulates_on_either_side_with_the_same_masks(
    server: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = {}
    for side in ("client", "server"):
        folder = tmp_path / side
        command = ["stream", str(video), "--url", server, "--emulate", side, "--save", str(folder), "--quiet"]
        assert main(command) == 0
        reports[side] = capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "client").iterdir())
    assert len(names) > 20
    assert names == sorted(path.name for path in (tmp_path / "server").iterdir())
    for name in names:
        assert (tmp_path / "client" / name).read_bytes() == (tmp_path / "server" / name).read_bytes()
    for line in ("events", "SOPs", "class share"):
        told = [[text for text in report.splitlines() if text.startswith(line)] for report in reports.values()]
        assert told[0] == told[1] != []


def test_a_window_is_shown_with_what_the_camera_saw_at_its_end() -> None:
    seen = WindowFrames()
    assert seen.take(5) is None
    frames = [Frame(10, GREY), Frame(20, np.repeat(GREY[..., None], 3, axis=2)), Frame(30, png(GREY))]
    assert list(seen.watch(frames)) == frames
    assert seen.take(10) is None
    # There may be no frame between two windows.
    for t_end, shape in ((11, (48, 64)), (20, (48, 64)), (21, (48, 64, 3)), (31, (48, 64, 3)), (500, (48, 64, 3))):
        frame = seen.take(t_end)
        assert frame is not None
        assert frame.shape == shape
        np.testing.assert_array_equal(frame if frame.ndim == 2 else frame[..., 0], GREY)


def test_the_command_shows_the_frames_that_it_sends(server: str, video: Path, tmp_path: Path) -> None:
    folder, rrd = tmp_path / "masks", tmp_path / "video.rrd"
    command = ["stream", str(video), "--url", server, "--emulate", "server", "--quiet", "--save", str(folder)]
    assert main([*command, "--overlay", "--rerun", str(rrd), "--video", str(tmp_path / "video.mp4")]) == 0
    with open_source(video) as source, Client(server, timeout=PATIENCE_S) as client:
        assert isinstance(source, FrameSource)
        frames = list(source.frames())
        results = list(client.stream(frames, source.sensor, options=FRAMED))
    logged = pictures(rrd, "/sensor/frame", "Image")
    assert len(logged) == len(results)
    for result, picture in zip(results, logged, strict=True):
        [*_, last] = [item.picture for item in frames if item.t_us < result.t_end]
        assert isinstance(last, np.ndarray)
        np.testing.assert_array_equal(picture, last)
        with Image.open(folder / f"overlay_{result.window:06d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), overlay(result.mask, EventBatch.empty(), frame=last))


def test_the_command_says_what_cannot_be_emulated(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.npz"
    np.savez(path, t=[1], x=[1], y=[1], p=[1], width=4, height=4)
    for more, message in (([], "is for video and webcams"), (["--reorder-us", "5"], "frames come in order")):
        assert main(["stream", str(path), "--url", server, "--emulate", "server", *more]) == 2
        assert message in capsys.readouterr().err
