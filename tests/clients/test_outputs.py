"""Masks, video, MCAP and the report, read back by other libraries."""

from __future__ import annotations

import base64
import json
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory
from PIL import Image

from clients import Activity, Latency, LayerActivity, Result, Skipped, overlay
from clients.errors import OutputError
from clients.outputs import MaskFolder, McapRecording, Output, OverlayVideo, Report, WindowEvents
from clients.outputs import mcap as mcap_module
from clients.outputs.report import EXACT_WINDOWS, RELATIVE_ERROR, Percentiles
from models.classes import DDD17_CLASSES
from models.events import EventBatch, SensorSize
from service.wire.events import decode_packet
from service.wire.masks import palette
from tests.service.harness import random_events

SENSOR = SensorSize(41, 31)
WINDOW_US = 20_000
START_US = 1_700_000_000_000_000 // WINDOW_US * WINDOW_US
EVENTS = random_events(5, windows=6, per_window=200, start_us=START_US, sensor=SENSOR)


def result(window: int, *, activity: bool = True) -> Result:
    mask = np.full((SENSOR.height, SENSOR.width), window % 6, np.uint8)
    mask[0, 0] = 255
    layer = LayerActivity("stem", 100, 10 + window, 0.1 + window / 100, 50.0)
    about = Activity((layer,), 0.1 + window / 100, 1000.0 * (window + 1), 9e6, 1e-6, 4e-5)
    start = START_US + window * WINDOW_US
    shares = tuple(float(k == window % 6) for k in range(6))
    return Result(
        window,
        start,
        start + WINDOW_US,
        200,
        1,
        Skipped(dropped=window % 2),
        mask,
        about if activity else None,
        Latency(1.0, 2.0, 3.0, 4.0, 10.0 + window),
        shares,
        False,
    )


RESULTS = [result(window) for window in range(6)]


def fill(output: Output) -> None:
    kept = WindowEvents()
    for _ in kept.watch([EVENTS[:250], EventBatch.empty(), EVENTS[250:]]):
        pass
    with output:
        for item in RESULTS:
            output.write(item, kept.take(item.t_start, item.t_end))


def events_of(item: Result) -> EventBatch:
    return EVENTS[slice(*np.searchsorted(EVENTS.t, (item.t_start, item.t_end)).tolist())]


def test_the_events_of_a_window_are_found_however_they_came() -> None:
    kept = WindowEvents()
    passed = list(kept.watch([EVENTS[:250], EVENTS[250:260], EVENTS[260:]]))
    assert list(map(len, passed)) == [250, 10, len(EVENTS) - 260]
    for item in RESULTS[1:]:
        found, wanted = kept.take(item.t_start, item.t_end), events_of(item)
        for name in ("t", "x", "y", "p"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert len(kept.take(RESULTS[-1].t_end + 1, RESULTS[-1].t_end + 2)) == 0
    mixed = WindowEvents()
    list(mixed.watch([EVENTS[::-1]]))
    np.testing.assert_array_equal(mixed.take(START_US, START_US + WINDOW_US).t, events_of(RESULTS[0]).t)


def test_a_folder_of_masks(tmp_path: Path) -> None:
    fill(MaskFolder(tmp_path / "new" / "masks", DDD17_CLASSES, overlays=True))
    names = [f"{kind}_{item.window:06d}.png" for kind in ("mask", "overlay") for item in RESULTS]
    assert sorted(path.name for path in (tmp_path / "new" / "masks").iterdir()) == names
    for item in RESULTS:
        with Image.open(tmp_path / "new" / "masks" / f"mask_{item.window:06d}.png") as image:
            assert image.mode == "P"
            assert bytes(image.getpalette() or []) == palette(DDD17_CLASSES)
            np.testing.assert_array_equal(np.asarray(image), item.mask)
        with Image.open(tmp_path / "new" / "masks" / f"overlay_{item.window:06d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), overlay(item.mask, events_of(item), DDD17_CLASSES))


def test_a_video_shows_each_window_at_its_time(tmp_path: Path) -> None:
    path = tmp_path / "masks.mp4"
    fill(OverlayVideo(path, DDD17_CLASSES))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = list(container.decode(stream))
    assert [round(frame.time * 1e6) for frame in frames] == [k * WINDOW_US for k in range(len(RESULTS))]
    # 31 rows are enlarged fifteen times, and made even.
    assert {(frame.width, frame.height) for frame in frames} == {(41 * 15 + 1, 31 * 15 + 1)}
    for item, frame in zip(RESULTS, frames, strict=True):
        wanted = overlay(item.mask, events_of(item), DDD17_CLASSES).astype(float)
        shown = frame.to_ndarray(format="rgb24")[7::15, 7::15][:31, :41].astype(float)
        assert np.abs(shown - wanted).mean() < 12


def test_a_video_of_nothing_is_no_file(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path / "none.mp4", DDD17_CLASSES):
        pass
    assert not (tmp_path / "none.mp4").exists()


def messages(path: Path) -> list[tuple[str, str, int, Any]]:
    """Topic, schema, time and content of every message."""
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        found = []
        factory = DecoderFactory()
        for schema, channel, message in reader.iter_messages():
            assert schema is not None
            if channel.message_encoding == "json":
                content = json.loads(message.data)
            else:
                decode = factory.decoder_for(channel.message_encoding, schema)
                assert decode is not None
                content = decode(message.data)
            found.append((channel.topic, schema.name, message.log_time, content))
    return found


def test_an_mcap_recording_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "masks.mcap"
    fill(McapRecording(path, DDD17_CLASSES, SENSOR))
    found = messages(path)
    by_topic = {topic: [m for m in found if m[0] == topic] for topic, *_ in found}
    assert {topic: (part[0][1], len(part)) for topic, part in by_topic.items()} == {
        mcap_module.CLASSES_TOPIC: ("spikeseg.Classes", 1),
        mcap_module.MASK_TOPIC: ("foxglove.CompressedImage", 6),
        mcap_module.ACTIVITY_TOPIC: ("spikeseg.Activity", 6),
        mcap_module.EVENTS_TOPIC: ("spikeseg.Events", 6),
    }
    [(*_, classes)] = by_topic[mcap_module.CLASSES_TOPIC]
    assert classes["classes"][0] == {"id": 0, "name": "flat", "color": [128, 64, 128]}
    for k, item in enumerate(RESULTS):
        *_, time_ns, image = by_topic[mcap_module.MASK_TOPIC][k]
        assert time_ns == item.t_end * 1000
        assert image.timestamp.seconds * 10**9 + image.timestamp.nanos == time_ns
        assert image.format == "png"
        (tmp_path / "mask.png").write_bytes(image.data)
        with Image.open(tmp_path / "mask.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), item.mask)
        *_, about = by_topic[mcap_module.ACTIVITY_TOPIC][k]
        assert about["window"] == item.window
        assert about["class_share"]["flat"] == item.class_share[0]
        assert item.activity is not None
        assert about["sops"] == item.activity.sops
        assert about["layers"][0]["spikes"] == 10 + k
        *_, events = by_topic[mcap_module.EVENTS_TOPIC][k]
        packet = decode_packet(base64.b64decode(events["data"]))
        assert packet.sensor == SENSOR
        np.testing.assert_array_equal(packet.events.t, events_of(item).t)
        assert events["count"] == len(packet.events)


def test_an_mcap_recording_without_events_or_activity(tmp_path: Path) -> None:
    with McapRecording(tmp_path / "masks.mcap", DDD17_CLASSES, SENSOR, events=False) as recording:
        recording.write(result(0, activity=False), EventBatch.empty())
        recording.close()
    found = messages(tmp_path / "masks.mcap")
    assert [topic for topic, *_ in found] == [
        mcap_module.CLASSES_TOPIC,
        mcap_module.MASK_TOPIC,
        mcap_module.ACTIVITY_TOPIC,
    ]
    assert "sops" not in found[-1][-1]


def test_two_recordings_do_not_mix(tmp_path: Path) -> None:
    first = McapRecording(tmp_path / "a.mcap", DDD17_CLASSES, SENSOR)
    second = McapRecording(tmp_path / "b.mcap", DDD17_CLASSES, SENSOR)
    first.write(RESULTS[0], events_of(RESULTS[0]))
    for item in RESULTS[:2]:
        second.write(item, events_of(item))
    first.close()
    second.close()
    assert len(messages(tmp_path / "a.mcap")) == 4
    assert len(messages(tmp_path / "b.mcap")) == 7


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    below = tmp_path / "file" / "below"
    with pytest.raises(OutputError, match="file"):
        MaskFolder(below, DDD17_CLASSES)
    with pytest.raises(OutputError, match="Not a directory"):
        OverlayVideo(below / "masks.mp4", DDD17_CLASSES)
    with pytest.raises(OutputError, match=r"should end in \.mp4"):
        OverlayVideo(tmp_path / "masks.avi", DDD17_CLASSES)
    with pytest.raises(OutputError, match="Not a directory"):
        McapRecording(below / "masks.mcap", DDD17_CLASSES, SENSOR)


def test_the_report_has_means_over_windows() -> None:
    report = Report(DDD17_CLASSES)
    assert list(report.lines()) == ["windows        0 (0.000 s of the sensor's time)", "events         0"]
    for item in RESULTS:
        report.add(item)
    said = "\n".join(report.lines())
    assert "windows        6 (0.120 s of the sensor's time)" in said
    assert "events         1200" in said
    assert "left out       3 windows" in said
    assert f"class share    {'flat':<18} {1 / 6:7.2%}" in said
    assert "firing rate    0.1250 spikes per neuron and window" in said
    assert "layer          stem                0.1250 spikes per neuron, 50 SOPs" in said
    assert "SOPs           3500 per window, 1.75e+05 per second" in said
    assert "energy         0.001 mJ per window by estimate, 0.04 mJ without spikes" in said
    assert "latency        p50 12.5 ms, p95 14.8 ms" in said
    quiet = Report(DDD17_CLASSES)
    quiet.add(result(0, activity=False))
    assert not any(line.startswith(("SOPs", "firing", "energy")) for line in quiet.lines())


def test_a_report_of_a_stream_of_hours_stays_small() -> None:
    report = Report(DDD17_CLASSES)
    latencies = np.random.default_rng(4).lognormal(1.5, 1.0, 20_000)
    tracemalloc.start()
    try:
        for ms in latencies[:6000]:
            report.add(replace(RESULTS[3], latency=Latency(0.0, 0.0, 0.0, 0.0, float(ms))))
        before = tracemalloc.get_traced_memory()[0]
        for ms in latencies[6000:]:
            report.add(replace(RESULTS[3], latency=Latency(0.0, 0.0, 0.0, 0.0, float(ms))))
        # 14,000 windows, each of which was some kilobytes.
        assert tracemalloc.get_traced_memory()[0] - before < 50_000
    finally:
        tracemalloc.stop()
    said = list(report.lines())
    assert said[0].startswith("windows        20000 ")
    found = [float(text) for text in re.findall(r"([\d.]+) ms[, ]", said[-1])]
    assert found == pytest.approx(np.percentile(latencies, [50, 95]), rel=RELATIVE_ERROR, abs=0.06)


@pytest.mark.parametrize("count", [1, 2, EXACT_WINDOWS, EXACT_WINDOWS + 1, 3 * EXACT_WINDOWS])
def test_percentiles_are_exact_for_few_and_near_for_many(count: int) -> None:
    values = np.random.default_rng(count).lognormal(2, 2, count)
    percentiles = Percentiles()
    for value in values:
        percentiles.add(float(value))
    error = 1e-12 if count <= EXACT_WINDOWS else 1.001 * RELATIVE_ERROR
    for percent in (0, 5, 50, 95, 99.9, 100):
        method = "linear" if count <= EXACT_WINDOWS else "lower"
        assert percentiles.at(percent) == pytest.approx(np.percentile(values, percent, method=method), rel=error)


def test_percentiles_of_times_that_cannot_be() -> None:
    percentiles = Percentiles()
    for value in [0.0, -1.0, 1e300] * EXACT_WINDOWS:
        percentiles.add(value)
    assert percentiles.at(50) == pytest.approx(1e-3, rel=2 * RELATIVE_ERROR)
    assert percentiles.at(100) == pytest.approx(1e9, rel=2 * RELATIVE_ERROR)
