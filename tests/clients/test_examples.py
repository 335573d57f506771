"""The examples, and the code in the pages about the SDK and the command, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients import Client
from clients.examples import bare_protocol
from clients.sources import open_source
from clients.writers import open_writer
from models.events import EventBatch, SensorSize
from service.wire.events import decode_packet
from tests.clients.test_sources import write_video
from tests.service.harness import PATIENCE_S, REPOSITORY
from tests.service.real_servers import free_port

DEMO = REPOSITORY / "service" / "demo" / "street.aedat4"
ADDRESS = "http://127.0.0.1:8000"


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (REPOSITORY / "docs" / page).read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the demo recording."""
    path = tmp_path_factory.mktemp("demo") / "street.aedat4"
    with open_source(DEMO) as source, open_writer(path, source.sensor) as writer:
        for batch in source:
            writer.write(batch[: int(batch.t.searchsorted(300_000))])
            if int(batch.t[-1]) > 300_000:
                break
    return path


@pytest.fixture
def environment(server: str, tmp_path: Path) -> dict[str, str]:
    """With the command in the path as an installation has it."""
    command = tmp_path / "bin" / "spikeseg"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m clients.cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "SPIKESEG_URL": server, "PATH": path}


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(len(blocks("sdk.md", "python"))))
def test_the_code_of_the_sdk_page_runs(
    server: str, environment: dict[str, str], short_demo: Path, tmp_path: Path, number: int
) -> None:
    code = blocks("sdk.md", "python")[number].replace(ADDRESS, server)
    assert server in code
    code = code.replace("service/demo/street.aedat4", str(short_demo))
    assert run([sys.executable, "-c", code], environment, tmp_path)


@pytest.mark.parametrize("number", range(len(blocks("cli.md", "sh"))))
def test_the_commands_of_the_cli_page_run(environment: dict[str, str], tmp_path: Path, number: int) -> None:
    commands = blocks("cli.md", "sh")[number].replace("service/demo/street.aedat4", str(DEMO))
    assert run(["bash", "-euc", commands], environment, tmp_path)


def test_the_example_of_a_recording(server: str, environment: dict[str, str], short_demo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clients.examples.stream_recording", str(short_demo), server]
    lines = run(command, environment, tmp_path).splitlines()
    assert len(lines) == 9
    assert all("mostly" in line and "% of neurons fired" in line for line in lines)


def test_the_example_of_a_video(server: str, environment: dict[str, str], short_demo: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "square.mp4")
    command = [sys.executable, "-m", "clients.examples.stream_video", str(video), server]
    lines = run(command, environment, tmp_path).splitlines()
    assert len(lines) == 34
    assert all(" events  mostly " in line for line in lines)
    command[3] = str(short_demo)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "has no frames" in done.stderr


def test_the_example_of_a_camera(server: str, environment: dict[str, str], short_demo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clients.examples.live_camera", str(short_demo), server]
    lines = run(command, environment, tmp_path).splitlines()
    assert lines[0] == "-- streaming"
    assert lines[-1] == "-- closed"
    assert any(line.startswith("window ") and line.endswith(" ms behind") for line in lines)


def test_the_example_of_the_command(environment: dict[str, str], short_demo: Path, tmp_path: Path) -> None:
    script = REPOSITORY / "clients" / "examples" / "command_line.sh"
    said = run(["bash", str(script), str(short_demo), str(tmp_path)], environment, tmp_path)
    assert "edge-s (default)" in said
    assert "total_p95_ms" in said
    for name in ("mask.png", "street.mp4", "street.mcap", "masks/mask_000000.png", "masks/overlay_000000.png"):
        assert (tmp_path / name).stat().st_size > 0


def test_the_example_of_the_protocol_needs_no_sdk(server: str, environment: dict[str, str], tmp_path: Path) -> None:
    source = (REPOSITORY / "clients" / "examples" / "bare_protocol.py").read_text()
    assert "from clients" not in source
    assert "from service" not in source
    lines = run([sys.executable, "-m", "clients.examples.bare_protocol", server], environment, tmp_path).splitlines()
    assert [line.split(":")[0] for line in lines] == [f"window {number}" for number in range(8)]
    # They are what the SDK gets for the same packets.
    packets = [decode_packet(bare_protocol.bar(number)) for number in range(bare_protocol.WINDOWS)]
    events = EventBatch.concatenate([packet.events for packet in packets])
    sensor = SensorSize(bare_protocol.WIDTH, bare_protocol.HEIGHT)
    with Client(server) as client, client.stream([events], sensor, window_us=bare_protocol.WINDOW_US) as stream:
        names = {item.id: item.name for item in stream.session.classes}
        for line, result in zip(lines, stream, strict=True):
            [(most, pixels)] = Counter(result.mask.ravel().tolist()).most_common(1)
            assert line.endswith(f": {result.events} events, {names[most]} {pixels / result.mask.size:.0%}")


@contextmanager
def beside(module: str, *arguments: str) -> Iterator[None]:
    """The other side of an example, as long as it is needed."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=REPOSITORY)
    try:
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_the_example_of_a_flight_controller(server: str, environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("pymavlink", reason="pymavlink is not installed: pip install 'spikeseg[drone]'")
    address = f"127.0.0.1:{free_port()}"
    geometry = ("--height", "2.0", "--pitch", "15", "--hfov", "70", "--age-limit", "5")
    options = ("--loop", "--url", server, "--mavlink", f"udpout:{address}", *geometry)
    with beside("clients.drone", str(DEMO), *options):
        command = [sys.executable, "-m", "clients.examples.flight_controller", f"udpin:{address}", "20"]
        lines = run(command, environment, tmp_path).splitlines()
    assert any(line.startswith("-- component 191") for line in lines)
    distances = [line for line in lines if not line.startswith("--")]
    assert len(distances) == 20
    assert all(line.startswith(("nothing is known", "clear as far as", "obstacle at")) for line in distances)


SEEN = re.compile(r"\d+\.\d{3} s  346x260  .*\d%")


def test_the_example_of_zenoh(server: str, environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("zenoh", reason="eclipse-zenoh is not installed: pip install 'spikeseg[vehicle]'")
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    options = ("--loop", "--url", server, "--zenoh", "car", "--zenoh-connect", endpoint, "--age-limit", "60")
    with beside("clients.vehicle", str(DEMO), *options):
        command = [sys.executable, "-m", "clients.examples.zenoh_labels", "car", "3", endpoint]
        lines = run(command, environment, tmp_path).splitlines()
    assert len(lines) == 3
    assert all(SEEN.fullmatch(line) for line in lines)


def test_the_example_of_ros_2(server: str, environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("cyclonedds", reason="cyclonedds is not installed: pip install 'spikeseg[vehicle]'")
    domain = str(free_port() % 200 + 10)
    options = ("--loop", "--url", server, "--ros", "/car/labels", "--domain", domain, "--age-limit", "60")
    with beside("clients.vehicle", str(DEMO), *options):
        command = [sys.executable, "-m", "clients.examples.ros2_labels", "/car/labels", "3", domain]
        lines = run(command, environment, tmp_path).splitlines()
    assert len(lines) == 3
    assert all(SEEN.fullmatch(line) for line in lines)


def test_the_pages_tell_of_what_there_is() -> None:
    from clients.cli.main import cli
    from clients.writers import FORMATS

    page = (REPOSITORY / "docs" / "cli.md").read_text()
    assert all(f"| `{name}" in page for name in cli.commands)
    assert all(f"`{suffix}`" in page for suffix in FORMATS)
