"""The replay command against the real server."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients import Client
from clients.overlay import overlay
from clients.replay import at_pace, main
from models.classes import DDD17_CLASSES
from models.events import EventBatch
from service.wire.aedat4 import write_aedat4
from service.wire.masks import palette
from tests.clients.scenes import SENSOR, moving_bars, write_npz
from tests.service.harness import PATIENCE_S, REPOSITORY

WINDOW_US = 20_000
WINDOWS = 4


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


def test_replay(
    server: str, bars: EventBatch, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "masks"
    code = main([str(recording), "--url", server, "--window-ms", "20", "--save", str(folder), "--overlay"])
    said, complaint = capsys.readouterr()
    assert (code, complaint) == (0, "")

    with Client(server, timeout=PATIENCE_S) as client:
        results = list(client.stream([bars], SENSOR, model="edge-s", window_us=WINDOW_US))
    assert numbers(said, "windows") == [WINDOWS, 0.08]
    assert numbers(said, "events") == [len(bars)]
    shares = [line for line in said.splitlines() if line.startswith("class share")]
    assert [line.split()[2] for line in shares] == [item.name for item in DDD17_CLASSES]
    assert sum(float(line.split()[3].rstrip("%")) for line in shares) == pytest.approx(100, abs=0.1)
    sops = [result.activity.sops for result in results if result.activity is not None]
    assert numbers(said, "SOPs")[0] == pytest.approx(np.mean(sops), rel=1e-3)
    assert numbers(said, "SOPs")[1] == pytest.approx(sum(sops) / 0.08, rel=1e-3)
    rates = [result.activity.firing_rate for result in results if result.activity is not None]
    assert numbers(said, "firing rate")[0] == pytest.approx(np.mean(rates), abs=1e-4)
    p50, p95 = (float(text) for text in re.findall(r"([\d.]+) ms", said))
    assert 0 < p50 <= p95

    names = [f"{kind}_{result.window:06d}.png" for kind in ("mask", "overlay") for result in results]
    assert sorted(path.name for path in folder.iterdir()) == names
    for result in results:
        with Image.open(folder / f"mask_{result.window:06d}.png") as image:
            assert image.mode == "P"
            assert bytes(image.getpalette() or []) == palette(DDD17_CLASSES)
            np.testing.assert_array_equal(np.asarray(image), result.mask)
        inside = (bars.t >= result.t_start) & (bars.t < result.t_end)
        events = bars[slice(int(inside.argmax()), int(inside.argmax() + inside.sum()))]
        with Image.open(folder / f"overlay_{result.window:06d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), overlay(result.mask, events, DDD17_CLASSES))


def test_replay_as_a_command(server: str, bars: EventBatch, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "bars.npz", bars[: len(bars) // 2])
    command = [sys.executable, "-m", "clients.replay", str(path), "--url", server, "--realtime"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert numbers(done.stdout, "events") == [len(bars) // 2]


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept = 0

    def now(self) -> float:
        """Seconds."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds > 0
        self.slept += 1
        self.time += seconds


def test_pace() -> None:
    clock = Clock()
    bars = moving_bars(duration_us=100_000, start_us=7_000_000, step_us=20_000)
    batches = [bars[bars_slice(bars, t)] for t in (7_000_000, 7_020_000, 7_080_000)]
    times = []
    for batch in at_pace(iter(batches), 20_000, now=clock.now, sleep=clock.sleep):
        times.append((int(batch.t[0]), round(clock.time, 6)))
        clock.time += 0.03 if len(times) == 1 else 0
    # The second one was due while the first was being used.
    assert times == [(7_000_000, 100.02), (7_020_000, 100.05), (7_080_000, 100.1)]
    assert clock.slept == 2


def bars_slice(bars: EventBatch, t: int) -> slice:
    """Where the events of one time are."""
    return slice(*np.searchsorted(bars.t, [t, t + 1]).tolist())


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says as it fails: one line."""
    assert main(arguments) == 2
    said, complaint = capsys.readouterr()
    assert said == ""
    assert complaint.count("\n") == 1
    assert complaint.startswith("error: ")
    return complaint


def test_a_file_that_is_not_there(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "absent.aedat4")
    said = complaint(capsys, path, "--url", server)
    assert said == f"error: {path}: No such file or directory\n"


def test_a_file_that_is_not_aedat4(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.aedat4"
    path.write_text("not a recording\n")
    said = complaint(capsys, str(path), "--url", server)
    assert str(path) in said
    assert "not an AEDAT4 file" in said


def test_a_file_that_is_cut_off(
    server: str, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.aedat4"
    path.write_bytes(recording.read_bytes()[:-500])
    assert str(path) in complaint(capsys, str(path), "--url", server)


def test_no_server(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = complaint(capsys, str(recording), "--url", f"http://127.0.0.1:{port}")
    assert "nobody answers" in said
    assert str(port) in said


def test_an_unknown_model(server: str, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "huge" in complaint(capsys, str(recording), "--url", server, "--model", "huge")


def test_a_folder_that_cannot_be_made(
    server: str, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    said = complaint(capsys, str(recording), "--url", server, "--save", str(tmp_path / "file" / "masks"))
    assert "file" in said


@pytest.mark.parametrize(
    "arguments", [["--overlay"], ["--window-ms", "0"], ["--window-ms", "long"], ["--timeout", "nan"]]
)
def test_arguments_that_make_no_sense(
    recording: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(recording), *arguments])
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "count", "seconds"),
    [("dvxplorer_320x240_0.6s.aedat4", 111_954, 0.6), ("davis346_lab_0.13s.aedat4", 117_667, 0.13)],
)
def test_real_recordings(
    server: str,
    recordings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    count: int,
    seconds: float,
) -> None:
    arguments = [str(recordings / name), "--url", server, "--window-ms", "66.666", "--save", str(tmp_path)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert numbers(said, "events") == [count]
    windows, span = numbers(said, "windows")
    assert span == pytest.approx(seconds, abs=0.15)
    assert len(list(tmp_path.glob("mask_*.png"))) == windows
