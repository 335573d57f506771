"""The examples, and the code in the pages about the SDK and the command, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clients.sources import open_source
from clients.writers import open_writer
from tests.service.harness import PATIENCE_S, REPOSITORY

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


def test_the_pages_tell_of_what_there_is() -> None:
    from clients.cli.main import cli
    from clients.writers import FORMATS

    page = (REPOSITORY / "docs" / "cli.md").read_text()
    assert all(f"| `{name}" in page for name in cli.commands)
    assert all(f"`{suffix}`" in page for suffix in FORMATS)
