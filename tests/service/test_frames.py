"""Frames in place of events: the service emulates an event sensor, whose memory is part of the session."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models import emulator, zoo
from models.emulator import EmulatorConfig
from models.events import EventBatch
from models.runtime.protocol import FrameModel
from service.streaming.checkpoints import MEDIA_TYPE as STATE_MEDIA_TYPE
from service.wire import messages
from service.wire.frames import encode_frame, encode_picture_frame
from service.wire.masks import MaskEncoding, decode_mask
from service.wire.messages import RESULTS_MEDIA_TYPE, MessageType, encode_message
from tests.service.harness import (
    SENSOR,
    WINDOW_US,
    HttpSession,
    Result,
    Stream,
    hello,
    make_events,
    metric,
    problem_of,
    read_result,
    same,
)

FRAME_US = 8_000
RAW = "application/octet-stream"


def scene(index: int) -> NDArray[np.uint8]:
    """A bright bar that moves over a textured ground."""
    ground = np.random.default_rng(3).integers(40, 120, (SENSOR.height, SENSOR.width), np.uint8)
    ground[:, 4 + 3 * index : 12 + 3 * index] = 230
    return ground


FRAMES = [scene(index) for index in range(12)]
TIMES = [1_000 + FRAME_US * index for index in range(12)]


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def expected(server: str) -> list[Result]:
    """The answers to the events that the emulator makes of the frames on this side, sent as events."""
    config = EmulatorConfig(most_crossings=100)
    state = emulator.initial(FRAMES[0], config, t_us=TIMES[0])
    parts = []
    for frame, t_us in zip(FRAMES[1:], TIMES[1:], strict=True):
        events, state = emulator.emulate(state, frame, t_us, config)
        parts.append(events)
    with Stream(server) as stream:
        return stream.events(EventBatch.concatenate(parts)) + stream.end()


class FrameStream(Stream):
    """A WebSocket session of frames."""

    def frame(self, index: int, payload: bytes | None = None) -> list[Result]:
        """Send a frame; the results."""
        payload = encode_frame(TIMES[index], FRAMES[index]) if payload is None else payload
        return self.call(lambda n: encode_message(MessageType.FRAME, n, payload))


def post_frame(
    session: HttpSession, index: int, content: bytes, kind: str = "image/png", **query: Any
) -> httpx.Response:
    return session.http.post(
        f"{session.path}/frames",
        params={"t_us": TIMES[index], **query},
        content=content,
        headers={"Content-Type": kind, "Accept": RESULTS_MEDIA_TYPE},
    )


def results_of(response: httpx.Response) -> list[Result]:
    assert response.status_code == 200, response.text
    return [read_result(message.payload) for message in messages.decode_messages(response.content)]


def test_frames_over_the_websocket_are_answered_like_their_events(server: str, expected: list[Result]) -> None:
    with FrameStream(server, hello(frames={})) as stream:
        assert stream.welcome["frames"] == {
            "contrast_on": 0.2,
            "contrast_off": 0.2,
            "threshold_sigma": 0.03,
            "refractory_us": 0,
            "noise_rate_hz": 0.1,
            "seed": 0,
        }
        results = []
        for index, pixels in enumerate(FRAMES):
            if index % 3 == 0:
                results += stream.frame(index)
            elif index % 3 == 1:
                colours = np.repeat(pixels[..., None], 3, axis=2)
                results += stream.frame(index, encode_frame(TIMES[index], colours))
            else:
                results += stream.frame(index, encode_picture_frame(TIMES[index], SENSOR, png(pixels)))
        results += stream.end()
    assert len(results) == 5
    assert all(result.events for result in results)
    assert same(results, expected)


def test_frames_over_http_are_answered_like_their_events(http: httpx.Client, expected: list[Result]) -> None:
    session = HttpSession(http, frames={})
    results = []
    for index, pixels in enumerate(FRAMES):
        content, kind = (png(pixels), "image/png") if index % 2 else (pixels.tobytes(), RAW)
        response = post_frame(session, index, content, kind)
        assert response.headers["spikeseg-next-sequence"] == str(index + 2)
        results += results_of(response)
    assert same(results, expected[: len(results)])
    assert len(results) == 4


def test_a_window_is_answered_by_the_frame_at_its_end_and_not_one_later(server: str) -> None:
    with FrameStream(server, hello(frames={"noise_rate_hz": 0.0})) as stream:
        stream.frame(0, encode_frame(0, FRAMES[0]))
        assert stream.frame(1, encode_frame(WINDOW_US - 2, FRAMES[1])) == []
        answered = stream.frame(2, encode_frame(WINDOW_US - 1, FRAMES[2]))
        assert [result.window for result in answered] == [0]


@pytest.mark.parametrize("cut", [1, 5])
def test_a_resumed_session_still_knows_the_last_frame(server: str, expected: list[Result], cut: int) -> None:
    with FrameStream(server, hello(frames={})) as stream:
        results = [result for index in range(cut) for result in stream.frame(index)]
        stream.drop()
    with FrameStream.resume(server, stream.token) as again:
        results += [result for index in range(cut, 12) for result in again.frame(index)]
        results += again.end()
    assert same(results, expected)


def test_a_snapshot_holds_the_camera(http: httpx.Client, expected: list[Result]) -> None:
    session = HttpSession(http, frames={})
    before = [r for index in range(6) for r in results_of(post_frame(session, index, png(FRAMES[index])))]
    snapshot = http.get(f"{session.path}/state").content
    fork = HttpSession(http, snapshot=snapshot)
    assert fork.fields["frames"]["seed"] == 0
    after = [r for index in range(6, 12) for r in results_of(post_frame(fork, index, png(FRAMES[index])))]
    assert same(before + after, expected[: len(before + after)])
    # A session of events is another kind of session.
    other = HttpSession(http)
    response = http.put(f"{other.path}/state", content=snapshot, headers={"Content-Type": STATE_MEDIA_TYPE})
    assert problem_of(response, 422)["errors"][0]["field"] == "frames"


def test_a_reset_forgets_the_last_frame(server: str) -> None:
    with FrameStream(server, hello(frames={})) as stream:
        first = [result for index in range(8) for result in stream.frame(index)]
        stream.reset()
        second = [result for index in range(8) for result in stream.frame(index)]
    assert same(first, second)


def test_the_same_seed_gives_the_same_noise_and_another_one_other_noise(server: str) -> None:
    def run(seed: int) -> list[Result]:
        with FrameStream(server, hello(frames={"seed": seed, "noise_rate_hz": 10.0})) as stream:
            return [result for index in range(12) for result in stream.frame(index)]

    assert same(run(1), run(1))
    assert not same(run(1), run(2))


def test_the_cameras_memory_is_counted(http: httpx.Client, server: str) -> None:
    session = HttpSession(http, frames={})
    before = session.state()["state_bytes"]
    total = metric(server, "spikeseg_state_bytes")
    results_of(post_frame(session, 0, png(FRAMES[0])))
    assert session.state()["state_bytes"] - before == SENSOR.width * SENSOR.height * 24
    assert metric(server, "spikeseg_state_bytes") > total


def test_a_flash_of_light_is_bounded_as_by_a_full_readout(strict_http: httpx.Client) -> None:
    """From black to white a pixel crosses 19 thresholds; the strict server takes 1000 events in a window."""
    size = {"width": 20, "height": 20}
    session = HttpSession(strict_http, sensor=size, frames={"noise_rate_hz": 0.0})
    for t_us, level in ((0, 0), (15_000, 255), (19_999, 255)):
        response = strict_http.post(
            f"{session.path}/frames",
            params={"t_us": t_us},
            content=bytes([level]) * 400,
            headers={"Content-Type": RAW, "Accept": RESULTS_MEDIA_TYPE},
        )
        results = results_of(response)
    assert [result.events for result in results] == [400]


def test_events_and_frames_do_not_mix(server: str, http: httpx.Client) -> None:
    with FrameStream(server, hello(frames={})) as stream:
        stream.socket.send(messages.encode_advance(1, 5))
        assert stream.refusal().code == 4422
    with FrameStream(server) as stream:
        stream.socket.send(encode_message(MessageType.FRAME, 1, encode_frame(0, FRAMES[0])))
        refusal = stream.refusal()
    assert refusal.code == 4422
    assert "option frames" in refusal.reason
    response = post_frame(HttpSession(http), 0, png(FRAMES[0]))
    assert "option frames" in problem_of(response, 422)["detail"]
    events = make_events((0, 1, 1, 1))
    session = HttpSession(http, frames={})
    with pytest.raises(AssertionError, match="takes frames"):
        session.events(events)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"frames": {"contrast_on": 0.01}}, "frames.contrast_on"),
        ({"frames": {"noise_rate_hz": -1.0}}, "frames.noise_rate_hz"),
        ({"frames": {"gain": 2}}, "frames.gain"),
        ({"frames": {}, "time": {"wrap_bits": 32}}, ""),
    ],
)
def test_settings_of_a_camera_are_checked(http: httpx.Client, fields: dict[str, Any], field: str) -> None:
    body = {"sensor": {"width": 64, "height": 48}, **fields}
    problem = problem_of(http.post("/v1/sessions", json=body), 422)
    assert problem["errors"][0]["field"] == field


def test_a_frame_that_cannot_be_used_changes_nothing(http: httpx.Client, expected: list[Result]) -> None:
    session = HttpSession(http, frames={})
    results = [r for index in range(4) for r in results_of(post_frame(session, index, png(FRAMES[index])))]
    for index, content, kind, status, field in (
        (3, png(FRAMES[4]), "image/png", 422, "t_us"),
        (4, png(FRAMES[4][:10]), "image/png", 422, "width"),
        (4, png(FRAMES[4])[:200], "image/png", 422, None),
        (4, b"", RAW, 422, "length"),
        (4, b"{}", "application/json", 415, None),
    ):
        problem = problem_of(post_frame(session, index, content, kind), status)
        if field:
            assert problem["errors"][0]["field"] == field
    problem = problem_of(http.post(f"{session.path}/frames", content=png(FRAMES[4])), 422)
    assert problem["errors"][0]["field"] == "t_us"
    results += [r for index in range(4, 12) for r in results_of(post_frame(session, index, png(FRAMES[index])))]
    assert same(results, expected[: len(results)])


def test_a_picture_in_one_shot_goes_through_a_network_of_frames(http: httpx.Client) -> None:
    rng = np.random.default_rng(4)
    colours = rng.integers(0, 256, (40, 56, 3), np.uint8)
    model = zoo.load("paper-deeplab-voc", expect=FrameModel)
    here = model.segment_frame(colours)
    accept = {"Accept": "application/octet-stream"}
    response = http.post("/v1/segment", content=png(colours), headers={"Content-Type": "image/png", **accept})
    assert response.status_code == 200, response.text
    mask = decode_mask(response.content, MaskEncoding.RAW, 56, 40)
    assert (mask == here.mask).mean() > 0.99
    described = http.post(
        "/v1/segment",
        params={"model": "paper-deeplab-voc"},
        content=png(colours),
        headers={"Content-Type": "image/png", "Accept": "application/json"},
    ).json()
    assert "window" not in described
    assert len(described["class_share"]) == len(model.classes)
    assert described["activity"]["sops"] == pytest.approx(here.activity.sops, rel=0.02)


@pytest.mark.parametrize(
    ("query", "content", "status", "word"),
    [
        ({"model": "edge-s"}, png(FRAMES[0]), 404, "segments events, not frames"),
        ({"model": "nothing"}, png(FRAMES[0]), 404, "paper-deeplab-voc"),
        ({"window_us": 1000}, png(FRAMES[0]), 422, "does not go with a picture"),
        ({}, b"", 422, "not a PNG, JPEG or WebP"),
        ({}, png(np.zeros((1, 5000), np.uint8)), 422, "too large"),
    ],
)
def test_a_picture_that_cannot_be_segmented_is_refused(
    http: httpx.Client, query: dict[str, Any], content: bytes, status: int, word: str
) -> None:
    response = http.post("/v1/segment", params=query, content=content, headers={"Content-Type": "image/png"})
    assert word in problem_of(response, status)["detail"]
