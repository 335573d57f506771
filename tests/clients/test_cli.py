"""The command against the real server, in this process where that will do, and as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from mcap.reader import make_reader
from PIL import Image

from clients import Client, overlay
from clients.cli import main as cli
from clients.cli.main import main
from clients.cli.remote import moving_bars as bench_bars
from clients.sources import open_source
from models.classes import DDD17_CLASSES
from models.events import EventBatch, SensorSize
from models.filters import FilterConfig, FilterState, HotPixelConfig, filter_events
from service.wire.aedat4 import write_aedat4
from service.wire.masks import palette
from tests.clients.scenes import SENSOR, moving_bars, write_npz
from tests.service.harness import PATIENCE_S, REPOSITORY

WINDOW_US = 20_000
WINDOWS = 4
COMMANDS = ["serve", "models", "segment", "stream", "convert", "record", "info", "bench"]


@pytest.fixture(scope="module")
def bars() -> EventBatch:
    return moving_bars(duration_us=WINDOWS * WINDOW_US)


@pytest.fixture(scope="module")
def recording(bars: EventBatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "bars.aedat4"
    write_aedat4(path, bars, SENSOR)
    return path


def numbers(report: str, line: str) -> list[float]:
    """The numbers in a line of the report."""
    [found] = [text for text in report.splitlines() if text.startswith(line)]
    return [float(number) for number in re.findall(r"\d[\d.]*(?:e[+-]\d+)?", found.removeprefix(line))]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when all is well."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def complaint(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    """What the command says as it fails: one line."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert code == status, err
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err


def process(*arguments: str) -> subprocess.Popen[str]:
    """The command as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "clients.cli", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# stream


def test_a_stream_is_saved_in_every_form_and_reported(
    server: str, bars: EventBatch, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, video, mcap = tmp_path / "new" / "masks", tmp_path / "bars.mp4", tmp_path / "bars.mcap"
    outputs = ["--save", str(folder), "--overlay", "--video", str(video), "--mcap", str(mcap)]
    report = said(capsys, "stream", str(recording), "--url", server, "--window-ms", "20", "--model", "edge-s", *outputs)

    with Client(server, timeout=PATIENCE_S) as client:
        results = list(client.stream([bars], SENSOR, model="edge-s", window_us=WINDOW_US))
    assert numbers(report, "windows") == [WINDOWS, 0.08]
    assert numbers(report, "events") == [len(bars)]
    assert f"{recording} (AEDAT4, {SENSOR})" in report
    shares = [line for line in report.splitlines() if line.startswith("class share")]
    assert [line.split()[2] for line in shares] == [item.name for item in DDD17_CLASSES]
    assert sum(float(line.split()[3].rstrip("%")) for line in shares) == pytest.approx(100, abs=0.1)
    sops = [result.activity.sops for result in results if result.activity is not None]
    assert numbers(report, "SOPs")[0] == pytest.approx(np.mean(sops), rel=1e-3)
    assert numbers(report, "SOPs")[1] == pytest.approx(sum(sops) / 0.08, rel=1e-3)
    rates = [result.activity.firing_rate for result in results if result.activity is not None]
    assert numbers(report, "firing rate")[0] == pytest.approx(np.mean(rates), abs=1e-4)
    p50, p95 = (float(text) for text in re.findall(r"([\d.]+) ms[, ]", report.split("latency")[1]))
    assert 0 < p50 <= p95

    names = [f"{kind}_{result.window:06d}.png" for kind in ("mask", "overlay") for result in results]
    assert sorted(path.name for path in folder.iterdir()) == names
    for result in results:
        with Image.open(folder / f"mask_{result.window:06d}.png") as image:
            assert bytes(image.getpalette() or []) == palette(DDD17_CLASSES)
            np.testing.assert_array_equal(np.asarray(image), result.mask)
        inside = slice(*np.searchsorted(bars.t, (result.t_start, result.t_end)).tolist())
        with Image.open(folder / f"overlay_{result.window:06d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), overlay(result.mask, bars[inside], DDD17_CLASSES))
    with av.open(str(video)) as container:
        assert len(list(container.decode(video=0))) == WINDOWS
    with mcap.open("rb") as file:
        topics = [channel.topic for _, channel, _ in make_reader(file).iter_messages()]
    assert topics.count("/segmentation/mask") == topics.count("/events") == WINDOWS


def test_a_recording_plays_from_where_as_fast_and_as_often_as_it_is_told(
    server: str, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = ["--url", server, "--window-ms", "20"]
    part = said(capsys, "stream", str(recording), *address, "--skip", "0.02", "--duration", "0.04", "--speed", "2")
    assert numbers(part, "windows") == [2, 0.04]
    twice = said(capsys, "stream", str(recording), *address, "--loop", "2")
    assert numbers(twice, "events") == [2 * numbers(said(capsys, "stream", str(recording), *address), "events")[0]]


def test_events_that_come_late_are_sorted_in(
    server: str, bars: EventBatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = EventBatch.concatenate([bars[:2000], bars[2400:2800], bars[2000:2400], bars[2800:]])
    path = str(write_npz(tmp_path / "late.npz", swapped))
    address = ["--url", server, "--window-ms", "20"]
    assert "earlier than" in complaint(capsys, 3, "stream", path, *address)
    saved = ["--save", str(tmp_path / "masks"), "--overlay"]
    report = said(capsys, "stream", path, *address, "--reorder-us", "10000", *saved)
    assert numbers(report, "events") == [len(bars)]


def test_noise_is_filtered_if_it_is_asked_for(
    server: str, bars: EventBatch, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = ["--url", server, "--window-ms", "20"]
    filters = ["--filter-background-us", "2000", "--filter-refractory-us", "100", "--filter-hot"]
    report = said(capsys, "stream", str(recording), *address, *filters)
    state = FilterState(FilterConfig(HotPixelConfig(), refractory_us=100, background_activity_us=2000), SENSOR)
    passed = filter_events(state, bars).events
    assert 0 < len(passed) < len(bars)
    assert numbers(report, "events") == [len(passed)]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_ctrl_c_completes_what_is_written(server: str, recording: Path, tmp_path: Path) -> None:
    video = tmp_path / "bars.mp4"
    command = process(
        "stream", str(recording), "--url", server, "--loop", "forever", "--speed", "1", "--video", str(video)
    )
    end = time.monotonic() + PATIENCE_S
    while not (video.exists() and video.stat().st_size) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1.0)
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=PATIENCE_S)
    assert (command.returncode, err) == (130, "")
    windows = int(numbers(out, "windows")[0])
    with av.open(str(video)) as container:
        assert len(list(container.decode(video=0))) == windows > 0


# The other commands


def test_models_are_listed(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "edge-s (default): windows of 33.333 ms; flat, construction+sky" in said(capsys, "models", "--url", server)
    listed = json.loads(said(capsys, "models", "--json", "--url", server))
    assert [model["name"] for model in listed if model["default"]] == ["edge-s"]
    assert listed[0]["card"]


def test_a_short_recording_is_segmented_in_one_request(
    server: str, bars: EventBatch, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mask.png"
    told = said(capsys, "segment", str(recording), "--url", server, "--window-ms", "20", "--out", str(out))
    with Client(server, timeout=PATIENCE_S) as client:
        result = client.segment(bars, SENSOR, window_us=WINDOW_US)
    with Image.open(out) as image:
        np.testing.assert_array_equal(np.asarray(image), result.mask)
    assert f"window {result.window}, {result.t_start} to {result.t_end} µs" in told
    assert told.count("class share") == 6


def test_formats_are_converted(
    bars: EventBatch, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = str(recording)
    for suffix in (".raw", ".npz", ".dat", ".h5", ".evt2.raw", ".aedat4"):
        after = str(tmp_path / f"bars{suffix}")
        assert f"{len(bars)} events" in said(capsys, "convert", before, after)
        before = after
    with open_source(before) as source:
        found = EventBatch.concatenate(list(source))
    for name in ("t", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(found, name), getattr(bars, name))
    part = said(capsys, "convert", before, str(tmp_path / "part.npz"), "--skip", "0.02", "--duration", "0.02")
    assert numbers(part, f"{tmp_path}/part.npz:")[0] == len(bars) / 4


def test_times_that_a_format_cannot_hold_are_spoken_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = moving_bars(duration_us=20_000, start_us=1_700_000_000_000_000)
    told = said(capsys, "convert", str(write_npz(tmp_path / "late.npz", late)), str(tmp_path / "late.raw"))
    assert "1700000000000000 µs were taken off each" in told


def test_a_recording_is_described(bars: EventBatch, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = json.loads(said(capsys, "info", str(recording), "--json"))
    assert about == {
        "source": str(recording),
        "format": "AEDAT4",
        "width": 64,
        "height": 48,
        "events": len(bars),
        "on_share": 0.5,
        "first_us": int(bars.t[0]),
        "last_us": int(bars.t[-1]),
    }
    told = said(capsys, "info", str(recording))
    assert numbers(told, "events") == [len(bars)]
    assert "50.00%" in told


def test_nothing_is_described_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_npz(tmp_path / "none.npz", EventBatch.empty()))
    assert numbers(said(capsys, "info", path), "events") == [0]
    assert json.loads(said(capsys, "info", path, "--json"))["first_us"] is None


def test_a_source_is_recorded(
    bars: EventBatch, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy.aedat4"
    said(capsys, "record", str(recording), str(out), "--duration", "0.04")
    with open_source(out) as source:
        assert sum(map(len, source)) == len(bars) / 2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_a_camera_is_recorded_until_ctrl_c(tmp_path: Path) -> None:
    from tests.clients.test_sources import SENDER

    sender = subprocess.Popen([sys.executable, "-c", SENDER, "64", "48", "0", "60"], stdout=subprocess.PIPE, text=True)
    assert sender.stdout is not None
    try:
        out = tmp_path / "camera.npz"
        command = process("record", f"tcp://127.0.0.1:{sender.stdout.readline().strip()}", str(out))
        time.sleep(5)
        command.send_signal(signal.SIGINT)
        told, err = command.communicate(timeout=PATIENCE_S)
        assert (command.returncode, err) == (0, "")
        assert "500 events" in told
        with open_source(out) as source:
            assert sum(map(len, source)) == 500
    finally:
        sender.kill()
        sender.wait()
        sender.stdout.close()


def test_a_service_is_measured(server: str, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", server, "--seconds", "0.5", "--streams", "2", "--json", "--window-ms", "20"]
    for source in (["--sensor", "64x48"], ["--source", str(recording)]):
        about = json.loads(said(capsys, *arguments, *source))
        assert about["streams"] == 2
        assert about["windows"] > 0
        assert about["windows_per_s"] == pytest.approx(about["windows"] / about["seconds"], rel=0.01)
        assert 0 < about["total_p50_ms"] <= about["total_p95_ms"] <= about["total_p99_ms"]
    assert "total_p95_ms" in said(capsys, "bench", server, "--seconds", "0.2", "--sensor", "64x48")


def test_the_bars_of_the_measurement_are_a_million_events_a_second() -> None:
    size = SensorSize(346, 260)
    bars = bench_bars(size)
    assert 900_000 < len(bars) <= 1_000_000
    assert (np.diff(bars.t) >= 0).all()
    assert bars.x.max() < size.width
    assert bars.y.max() < size.height


def test_the_service_is_served() -> None:
    command = process("serve", "--port", "0", "--cores", "1")
    assert command.stdout is not None
    assert command.stderr is not None
    url = command.stdout.readline().strip()
    with Client(url, timeout=PATIENCE_S) as client:
        client.wait_until_ready(PATIENCE_S)
    command.send_signal(signal.SIGTERM)
    command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 0


# What goes wrong


def test_sources_that_cannot_be_read(
    server: str, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = str(tmp_path / "absent.aedat4")
    assert complaint(capsys, 3, "stream", absent, "--url", server) == f"error: {absent}: No such file or directory\n"
    notes = tmp_path / "notes.aedat4"
    notes.write_text("not a recording\n")
    assert "not an AEDAT4 file" in complaint(capsys, 3, "info", str(notes))
    broken = tmp_path / "cut.aedat4"
    broken.write_bytes(recording.read_bytes()[:-500])
    assert str(broken) in complaint(capsys, 3, "stream", str(broken), "--url", server)
    assert "no iniVation camera" in complaint(capsys, 3, "record", "camera://", str(tmp_path / "x.npz"))


def test_services_that_cannot_be_used(
    server: str, recording: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    for arguments in (("stream", str(recording)), ("models",), ("segment", str(recording))):
        told = complaint(capsys, 4, *arguments, "--url", nobody)
        assert "nobody answers" in told
        assert nobody.removeprefix("http://") in told
    assert "nobody answers" in complaint(capsys, 4, "bench", nobody, "--seconds", "0.1")
    assert "huge" in complaint(capsys, 4, "stream", str(recording), "--url", server, "--model", "huge")
    assert "not an address" in complaint(capsys, 4, "models", "--url", "ftp://there")
    assert "cannot be read" in complaint(
        capsys, 4, "models", "--url", "https://127.0.0.1:1", "--ca", str(tmp_path / "absent.pem")
    )


def test_outputs_that_cannot_be_written(
    server: str, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    below = tmp_path / "file" / "below"
    for option, path in (("--save", below), ("--video", f"{below}.mp4"), ("--mcap", below), ("--video", "x.avi")):
        assert str(path) in complaint(capsys, 5, "stream", str(recording), "--url", server, option, str(path))
    assert "should end in one of" in complaint(capsys, 5, "convert", str(recording), str(tmp_path / "bars.txt"))
    assert "over itself" in complaint(capsys, 5, "convert", str(recording), str(recording))
    assert recording.stat().st_size > 1000
    assert str(below) in complaint(capsys, 5, "segment", str(recording), "--url", server, "--out", str(below))


@pytest.mark.parametrize(
    "arguments",
    [
        ["stream"],
        ["stream", "x", "--overlay"],
        ["stream", "x", "--window-ms", "0"],
        ["stream", "x", "--window-ms", "long"],
        ["stream", "x", "--timeout", "nan"],
        ["stream", "x", "--speed", "0"],
        ["stream", "x", "--loop", "never"],
        ["info", "x", "--sensor", "640"],
        ["info", "x", "--sensor", "0x5"],
        ["info", "x", "--sensr", "640x480"],
        ["dance"],
    ],
)
def test_arguments_that_make_no_sense(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert "--help" in complaint(capsys, 2, *arguments)


def test_help_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    whole = said(capsys, "--help")
    assert all(f"\n  {command} " in whole for command in COMMANDS)
    assert not re.search(r"^  .*\.\.\.$", whole, re.MULTILINE), "what a command does is said in full"
    for name in ("EXIT_USAGE", "EXIT_SOURCE", "EXIT_SERVICE", "EXIT_OUTPUT", "EXIT_MISSING", "EXIT_INTERRUPTED"):
        assert re.search(rf"^ +{getattr(cli, name)}  \w", whole, re.MULTILINE)
    for command in COMMANDS:
        told = said(capsys, command, "--help")
        # Every option says what it is for.
        options = re.findall(r"^  (?:-h, )?(--[a-z-]+)(.*(?:\n {10,}.*)*)", told, re.MULTILINE)
        assert options
        assert all(len(text.split()) > 1 for _, text in options), told
    for command in ("stream", "info", "convert", "record", "segment"):
        assert "camera://[SERIAL]" in re.sub(r"\s+", " ", said(capsys, command, "--help"))
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["av"] = None
from clients.cli.main import main
sys.exit(main(["info", {str(tmp_path / "film.mp4")!r}]))
"""
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + b"\0" * 20)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 6
    assert done.stderr == "error: reading video needs av, which is not installed: pip install 'spikeseg[clients-all]'\n"


def test_the_command_itself_may_lack_a_library() -> None:
    code = "import sys; sys.modules['click'] = None; from clients.cli.entry import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr == "error: the command needs click, which is not installed: pip install 'spikeseg[clients]'\n"


def test_the_address_and_the_token_come_from_the_environment(server: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clients.cli", "models"],
        cwd=REPOSITORY,
        env={**os.environ, "SPIKESEG_URL": server, "SPIKESEG_TOKEN": "two words"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (4, "error: the token may hold only visible ASCII characters\n")
