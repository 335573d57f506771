"""Faults that cameras and their libraries are known for, from the source to the service's answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clients import AsyncClient, Client, Result, open_source
from clients.cli.main import main
from clients.errors import RecordingError
from clients.sources import prophesee
from clients.sources.evt import encode_evt3
from models.events import EventBatch
from tests.clients.scenes import SENSOR, moving_bars
from tests.clients.test_evt import words
from tests.clients.test_sources import send  # noqa: F401 it is a fixture
from tests.service.harness import PATIENCE_S, WINDOW_US
from tests.service.test_aedat4 import dv_file

HEADER = b"% evt 3.0\n% format EVT3;height=48;width=64\n% end\n"


@pytest.mark.parametrize("event", [(10, -1, 5, True), (10, 5, -1, True)])
def test_negative_coordinates_in_a_file_are_refused_and_not_wrapped_around(
    server: str, tmp_path: Path, event: tuple[int, int, int, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    path = dv_file(tmp_path / "negative.aedat4", [(0, 1, 1, True), event])
    with open_source(path) as source, pytest.raises(RecordingError, match="negative coordinates"):
        list(source)
    assert main(["stream", str(path), "--url", server]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1001])
def test_the_state_of_evt3_is_carried_over_the_chunks_of_a_file(
    tmp_path: Path, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Times, rows and vectors are said once and hold for all words that follow, in whatever chunk they are.
    events = moving_bars(duration_us=6_000)
    path = tmp_path / "bars.raw"
    path.write_bytes(HEADER + encode_evt3(events, None)[0])
    monkeypatch.setattr(prophesee, "_CHUNK_BYTES", chunk_bytes)
    with open_source(path) as source:
        found = EventBatch.concatenate(list(source))
    for name in ("t", "x", "y", "p"):
        np.testing.assert_array_equal(getattr(found, name), getattr(events, name))


def test_a_time_low_that_steps_back_is_streamed_as_the_time_before(server: str, tmp_path: Path) -> None:
    """The clock does not go round by it: that would put the events 4.096 ms later, or the stream would be refused."""
    path = tmp_path / "back.raw"
    path.write_bytes(HEADER + words(0x8001, 0, 0x6000 | 100, 0x2001, 0x6000 | 90, 0x2002, 0x6000 | 110, 0x2003))
    with open_source(path) as source, Client(server, timeout=PATIENCE_S) as client:
        [result] = client.stream(source, window_us=WINDOW_US)
        events = EventBatch.concatenate(list(source))
    assert events.t.tolist() == [0x1000 + 100, 0x1000 + 100, 0x1000 + 110]
    assert (result.window, result.events) == (0, 3)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_last_window_of_a_camera_is_answered_though_no_event_comes_after_it(
    server: str,
    send: Callable[..., str],  # noqa: F811
    kind: str,
) -> None:
    """dv-processing's slicers keep the last window to themselves; here each of 5 packets of 100 events is in one."""
    found: list[Result] = []
    with open_source(send()) as source:
        assert source.sensor == SENSOR
        if kind == "sync":
            with Client(server, timeout=PATIENCE_S) as client:
                found.extend(client.stream(source, window_us=10_000))
        else:

            async def run() -> None:
                async with AsyncClient(server, timeout=PATIENCE_S) as client:
                    async for result in client.stream(source, window_us=10_000):
                        found.append(result)  # noqa: PERF401 as the other one does

            asyncio.run(run())
    assert [(result.t_start, result.events) for result in found] == [
        (1_000_000 + 10_000 * packet, 100) for packet in range(5)
    ]
