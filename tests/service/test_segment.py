"""One shot: events in, the last window's mask out."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.events import EventBatch, SensorSize
from service.wire.aedat4 import write_aedat4
from service.wire.events import MEDIA_TYPE, encode_packet, encode_packets, events_to_json
from service.wire.masks import MaskEncoding, decode_coco_rle, decode_mask
from tests.service.harness import SENSOR, WINDOW_US, Result, Stream, make_events, problem_of, random_events

EVENTS = random_events(31, windows=3)
PACKET = encode_packet(EVENTS, SENSOR)
QUERY = {"window_us": WINDOW_US}
PACKETS = {"Content-Type": MEDIA_TYPE}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def last(server: str) -> Result:
    """The last window's answer over a stream."""
    with Stream(server) as stream:
        return (stream.events(EVENTS) + stream.end())[-1]


def read(response: httpx.Response, width: int = SENSOR.width, height: int = SENSOR.height) -> NDArray[np.uint8]:
    """The mask of an answer, whatever its type."""
    assert response.status_code == 200, response.text
    kind = response.headers["content-type"]
    if kind == "application/json":
        return decode_coco_rle(response.json()["mask"]["rles"], width, height)
    encoding = {
        "image/png": MaskEncoding.PNG,
        "application/octet-stream": MaskEncoding.RAW,
        "application/x-npy": MaskEncoding.NPY,
    }[kind]
    return decode_mask(response.content, encoding, width, height)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/png", "image/png"),
        ("application/octet-stream", "application/octet-stream"),
        ("application/x-npy", "application/x-npy"),
        ("application/json", "application/json"),
        ("text/html, application/json;q=0.5, image/png;q=0.4", "application/json"),
        ("application/*;q=0.9, image/png;q=0.1", "application/octet-stream"),
        ("*/*, image/png;q=0", "application/octet-stream"),
    ],
)
def test_the_answer_is_what_accept_asks_for(http: httpx.Client, last: Result, accept: str | None, kind: str) -> None:
    headers = {**PACKETS, "Accept": accept} if accept else PACKETS
    request = http.build_request("POST", "/v1/segment", params=QUERY, content=PACKET, headers=headers)
    if accept is None:
        del request.headers["accept"]
    response = http.send(request)
    assert response.headers["content-type"] == kind
    assert np.array_equal(read(response), last.mask)
    text = response.text if kind == "application/json" else response.headers["spikeseg-result"]
    metadata = json.loads(text)
    assert metadata["activity"] == last.activity
    assert (metadata["window"], metadata["t_start"], metadata["t_end"]) == (2, 2 * WINDOW_US, 3 * WINDOW_US)
    assert metadata["class_share"] == last.metadata["class_share"]


def test_png_opens_with_colours(http: httpx.Client) -> None:
    response = http.post("/v1/segment", params=QUERY, content=PACKET, headers=PACKETS)
    with Image.open(io.BytesIO(response.content)) as image:
        assert (image.mode, image.size) == ("P", (SENSOR.width, SENSOR.height))


def test_every_way_to_send_events_gives_the_same_mask(http: httpx.Client, last: Result, tmp_path: Any) -> None:
    size = {"width": SENSOR.width, "height": SENSOR.height}
    many = b"".join(encode_packets(EVENTS, SENSOR, packet_us=5_000))
    path = tmp_path / "events.aedat4"
    write_aedat4(path, EVENTS, SENSOR)
    requests: list[tuple[bytes | str, str, dict[str, int]]] = [
        (many, MEDIA_TYPE, {}),
        (many, MEDIA_TYPE, size),
        (events_to_json(EVENTS), "application/json", size),
        (path.read_bytes(), "application/vnd.aedat4", {}),
    ]
    for content, kind, query in requests:
        response = http.post("/v1/segment", params={**QUERY, **query}, content=content, headers={"Content-Type": kind})
        assert np.array_equal(read(response), last.mask), kind


def test_requests_leave_nothing_behind(http: httpx.Client, last: Result) -> None:
    for _ in range(2):
        response = http.post(
            "/v1/segment", params=QUERY, content=PACKET, headers={**PACKETS, "Accept": "application/json"}
        )
        assert response.json()["activity"] == last.activity


def test_the_default_window_is_the_models(http: httpx.Client) -> None:
    (model,) = (m for m in http.get("/v1/models").json()["models"] if m["name"] == "edge-s")
    headers = {**PACKETS, "Accept": "application/json"}
    result = http.post("/v1/segment", params={"model": "edge-s"}, content=PACKET, headers=headers).json()
    assert result["t_end"] - result["t_start"] == model["window"]["us"]


@pytest.mark.parametrize("sensor", [SensorSize(1, 1), SensorSize(3, 2), SensorSize(2000, 1), SensorSize(1, 500)])
def test_odd_sensors(http: httpx.Client, sensor: SensorSize) -> None:
    packet = encode_packet(make_events((0, 0, 0, 1), (1, sensor.width - 1, sensor.height - 1, 0)), sensor)
    response = http.post("/v1/segment", content=packet, headers=PACKETS)
    assert read(response, sensor.width, sensor.height).shape == (sensor.height, sensor.width)


Request = tuple[dict[str, Any], int, str]
BAD: dict[str, Request] = {
    "no content type": ({"content": PACKET}, 415, MEDIA_TYPE),
    "another content type": ({"content": PACKET, "headers": {"Content-Type": "text/csv"}}, 415, MEDIA_TYPE),
    "another accept": ({"content": PACKET, "headers": {**PACKETS, "Accept": "image/jpeg"}}, 406, "image/png"),
    "an accept that wants nothing": (
        {"content": PACKET, "headers": {**PACKETS, "Accept": "*/*;q=0"}},
        406,
        "image/png",
    ),
    "an accept that is no accept": ({"content": PACKET, "headers": {**PACKETS, "Accept": ";;,q=x"}}, 406, "image/png"),
    "an unknown model": ({"content": PACKET, "headers": PACKETS, "params": {"model": "nope"}}, 404, "edge-s"),
    "an empty body": ({"content": b"", "headers": PACKETS}, 422, "empty"),
    "an empty body and a size": (
        {"content": b"", "headers": PACKETS, "params": {"width": 1, "height": 1}},
        422,
        "no events",
    ),
    "no events": ({"content": encode_packet(EventBatch.empty(), SENSOR), "headers": PACKETS}, 422, "no events"),
    "a packet cut short": ({"content": PACKET[:-3], "headers": PACKETS}, 422, "cut short"),
    "another size": ({"content": PACKET, "headers": PACKETS, "params": {"width": 5, "height": 5}}, 422, "5x5"),
    "half a size": ({"content": PACKET, "headers": PACKETS, "params": {"width": 64}}, 422, "height"),
    "too large a sensor": (
        {"content": encode_packet(make_events((0, 0, 0, 0)), SensorSize(30_000, 30_000)), "headers": PACKETS},
        422,
        "too large",
    ),
    "JSON without a size": ({"content": events_to_json(EVENTS), "headers": JSON}, 422, "width"),
    "JSON outside": (
        {"content": events_to_json(EVENTS), "headers": JSON, "params": {"width": 9, "height": 9}},
        422,
        "outside the 9x9 sensor",
    ),
    "a width of 0": ({"content": PACKET, "headers": PACKETS, "params": {"width": 0, "height": 1}}, 422, "width"),
    "a width of text": ({"content": PACKET, "headers": PACKETS, "params": {"width": "x", "height": 1}}, 422, "width"),
    "a window of 0": ({"content": PACKET, "headers": PACKETS, "params": {"window_us": 0}}, 422, "window_us"),
    "too short a window": ({"content": PACKET, "headers": PACKETS, "params": {"window_us": 2}}, 422, "window"),
    "a huge window": ({"content": PACKET, "headers": PACKETS, "params": {"window_us": 10**30}}, 422, "window"),
    "a jump in time": (
        {"content": encode_packet(make_events((0, 0, 0, 0), (2**32 - 1, 0, 0, 0)), SENSOR), "headers": PACKETS},
        422,
        "windows",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_refused(http: httpx.Client, what: str) -> None:
    arguments, status, says = BAD[what]
    assert says in json.dumps(problem_of(http.post("/v1/segment", **arguments), status))


def test_accept_may_stand_on_several_lines(http: httpx.Client) -> None:
    headers = [*PACKETS.items(), ("Accept", "text/html"), ("Accept", "application/json")]
    response = httpx.post(f"{http.base_url}/v1/segment", params=QUERY, content=PACKET, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"


def test_a_compressed_body_is_refused_for_what_it_is(http: httpx.Client) -> None:
    headers = {**PACKETS, "Content-Encoding": "gzip"}
    response = http.post("/v1/segment", params=QUERY, content=gzip.compress(PACKET), headers=headers)
    assert "gzip" in problem_of(response, 415)["detail"]
    assert response.headers["accept-encoding"] == "identity"
    headers["Content-Encoding"] = "identity"
    assert http.post("/v1/segment", params=QUERY, content=PACKET, headers=headers).status_code == 200


def test_a_refusal_does_not_repeat_the_body(http: httpx.Client) -> None:
    body = json.dumps({"k" * 1_000_000: 1})
    response = http.post("/v1/segment", params={"width": 8, "height": 8}, content=body, headers=JSON)
    problem_of(response, 422)
    assert len(response.content) < 1000
