"""Recordings for the Rerun viewer are read back by Rerun's own reader and checked by its own command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rerun_cli
from numpy.typing import NDArray
from rerun.chunk import RrdReader

from clients import Client, Result
from clients.cli.main import main
from clients.errors import OutputError
from clients.outputs import RerunRecording
from clients.outputs.rerun import COUNT, EVENTS, FIRING_RATE, LATENCY, MASK, SHARE, SOPS
from models.classes import DDD17_CLASSES
from models.events import EventBatch
from tests.clients.scenes import SENSOR, moving_bars, write_npz
from tests.clients.test_outputs import RESULTS
from tests.clients.test_outputs import SENSOR as OTHER_SENSOR
from tests.service.harness import PATIENCE_S, REPOSITORY
from tests.service.real_servers import HOST, end_process, free_port, wait_until_up
from tests.service.replicas import wait_until

WINDOW_US = 20_000
RERUN = Path(rerun_cli.__file__).parent / ("rerun.exe" if os.name == "nt" else "rerun")
URL = "rerun+http://127.0.0.1:{}/proxy"


@pytest.fixture(scope="module")
def bars() -> EventBatch:
    return moving_bars(duration_us=4 * WINDOW_US)


@pytest.fixture(scope="module")
def answers(server: str, bars: EventBatch) -> list[Result]:
    with Client(server, timeout=PATIENCE_S) as client:
        return list(client.stream([bars], SENSOR, window_us=WINDOW_US))


@pytest.fixture(scope="module")
def recorded(server: str, bars: EventBatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command records."""
    folder = tmp_path_factory.mktemp("rerun")
    source, path = write_npz(folder / "bars.npz", bars), folder / "bars.rrd"
    command = ["stream", str(source), "--url", server, "--window-ms", "20", "--quiet", "--rerun", str(path)]
    assert main(command) == 0
    return path


def columns(path: Path, entity: str, *, static: bool = False) -> dict[str, list[Any]]:
    """Everything that a recording has of an entity, in the order of time; columns by their names."""
    found: dict[str, list[Any]] = {}
    for chunk in RrdReader(path).stream():
        if chunk.entity_path == entity and chunk.is_static is static:
            for name, values in chunk.to_record_batch().to_pydict().items():
                found.setdefault(name, []).extend(values)
    if not static and found:
        order = np.argsort(found["window"])
        found = {name: [values[at] for at in order] for name, values in found.items()}
    return found


def pictures(path: Path, entity: str, archetype: str = "SegmentationImage") -> list[NDArray[np.uint8]]:
    """The pictures of an entity."""
    there = columns(path, entity)
    shapes = [(form[0]["height"], form[0]["width"]) for form in there[f"{archetype}:format"]]
    buffers = [np.array(buffer[0], np.uint8) for buffer in there[f"{archetype}:buffer"]]
    return [buffer.reshape(shape) for buffer, shape in zip(buffers, shapes, strict=True)]


def scalars(path: Path, entity: str) -> list[float]:
    """The numbers of an entity."""
    return [value[0] for value in columns(path, entity)["Scalars:scalars"]]


def test_a_recording_holds_every_mask_with_its_times(recorded: Path, answers: list[Result]) -> None:
    masks = pictures(recorded, MASK)
    assert len(masks) == len(answers) == 4
    for mask, answer in zip(masks, answers, strict=True):
        np.testing.assert_array_equal(mask, answer.mask)
    there = columns(recorded, MASK)
    assert there["window"] == [answer.window for answer in answers]
    assert [int(time.total_seconds() * 1e6) for time in there["sensor_time"]] == [answer.t_end for answer in answers]
    # There is no timeline of when it was made.
    assert not {"log_time", "log_tick"} & set(there)


def test_a_recording_knows_the_classes(recorded: Path) -> None:
    [[context]] = columns(recorded, MASK, static=True)["AnnotationContext:context"]
    infos = {item["class_id"]: item["class_description"]["info"] for item in context}
    for item in DDD17_CLASSES:
        red, green, blue = item.color
        assert infos[item.id]["label"] == item.name
        assert infos[item.id]["color"] == red << 24 | green << 16 | blue << 8 | 0xFF
    assert infos[255]["label"] == "unlabelled"


def test_a_recording_shows_each_pixels_last_event(recorded: Path, bars: EventBatch, answers: list[Result]) -> None:
    for picture, answer in zip(pictures(recorded, EVENTS), answers, strict=True):
        expected = np.zeros((SENSOR.height, SENSOR.width), np.uint8)
        for k in np.flatnonzero((bars.t >= answer.t_start) & (bars.t < answer.t_end)):
            expected[bars.y[k], bars.x[k]] = 2 if bars.p[k] else 1
        np.testing.assert_array_equal(picture, expected)
        assert expected.any()


def test_a_recording_has_activity_and_latency_over_time(recorded: Path, answers: list[Result]) -> None:
    activities = [answer.activity for answer in answers if answer.activity is not None]
    assert len(activities) == 4
    assert scalars(recorded, COUNT) == [answer.events for answer in answers]
    assert scalars(recorded, SOPS) == [activity.sops for activity in activities]
    for at, layer in enumerate(activities[0].layers):
        rates = scalars(recorded, f"{FIRING_RATE}/{layer.name}")
        assert rates == [activity.layers[at].firing_rate for activity in activities]
    for at, name in enumerate(("flat", "construction\\+sky", "object", "nature", "human", "vehicle")):
        assert scalars(recorded, f"{SHARE}/{name}") == [answer.class_share[at] for answer in answers]
    parts = {part: scalars(recorded, f"{LATENCY}/{part}") for part in ("decode", "wait", "compute", "encode", "total")}
    assert all(0 < compute <= total for compute, total in zip(parts["compute"], parts["total"], strict=True))


def test_a_recording_is_whole_and_has_a_layout(recorded: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [RERUN, "rrd", "verify", recorded],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reader = RrdReader(recorded)
    [blueprint] = reader.blueprints()
    names = set()
    for chunk in reader.stream(store=blueprint):
        batch = chunk.to_record_batch()
        if "ViewBlueprint:display_name" in batch.schema.names:
            names |= {name for [name] in batch.column("ViewBlueprint:display_name").to_pylist()}
    assert names >= {"Mask and events", "Share of each class", "Firing rate of each layer", "Latency (ms)"}


def test_times_of_a_camera_that_counts_from_1970_are_dates(tmp_path: Path) -> None:
    path = tmp_path / "dates.rrd"
    with RerunRecording(DDD17_CLASSES, OTHER_SENSOR, path=path) as recording:
        for late in RESULTS:
            recording.write(late, EventBatch.empty())
    # Once more does no harm.
    recording.close()
    times = [np.datetime64(time.replace(tzinfo=None), "us") for time in columns(path, MASK)["sensor_time"]]
    assert times == [np.datetime64(late.t_end, "us") for late in RESULTS]


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a Rerun that listens, and the file that it saves what it hears to."""
    path, log, port = tmp_path / "heard.rrd", tmp_path / "rerun.log", free_port()
    with log.open("wb") as said:
        process = subprocess.Popen(
            [RERUN, "--save", path, "--bind", HOST, "--port", str(port)],
            env={**os.environ, "HOME": str(tmp_path)},
            stdout=said,
            stderr=said,
        )
    try:
        wait_until_up(lambda: b"Listening" in log.read_bytes(), process, log.read_text)
        yield URL.format(port), path
    finally:
        end_process(process)


# A file that is still written to has no end yet.
@pytest.mark.filterwarnings("ignore:RRD file has no footer")
def test_a_viewer_is_shown_the_same_live(
    server: str, recorded: Path, viewer: tuple[str, Path], answers: list[Result]
) -> None:
    url, heard = viewer
    source = recorded.parent / "bars.npz"
    command = ["stream", str(source), "--url", server, "--window-ms", "20", "--quiet", "--rerun-connect", url]
    assert main(command) == 0

    def is_saved() -> bool:
        try:
            return len(columns(heard, MASK).get("window", [])) == len(answers)
        except (OSError, ValueError, RuntimeError):
            return False

    wait_until(is_saved, "the viewer has saved what it heard")
    for mask, answer in zip(pictures(heard, MASK), answers, strict=True):
        np.testing.assert_array_equal(mask, answer.mask)


def test_what_cannot_be_recorded_to_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for options, message in (
        ({"path": tmp_path / "file" / "below.rrd"}, "below.rrd: Not a directory"),
        ({"url": "http://127.0.0.1:9876"}, "is not an address like rerun"),
        ({"url": "rerun+http://127.0.0.1:x/proxy"}, "is not an address"),
        ({"url": URL.format(free_port())}, "no Rerun viewer listens at rerun.*refused; start one: rerun"),
        ({}, "needs a file or the address of a viewer"),
    ):
        with pytest.raises(OutputError, match=message):
            RerunRecording(DDD17_CLASSES, SENSOR, **options)  # type: ignore[arg-type]


def test_without_the_library_the_command_says_how_to_install_it(server: str, recorded: Path, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["rerun"] = None
from clients.cli.main import main
sys.exit(main(["stream", {str(recorded.parent / "bars.npz")!r}, "--url", {server!r}, "--rerun", "x.rrd"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 6
    assert done.stderr == (
        "error: recording for the Rerun viewer needs rerun, which is not installed: pip install 'spikeseg[rerun]'\n"
    )
    assert list(tmp_path.iterdir()) == []
