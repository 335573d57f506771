"""Loading a network holds up nobody who uses another one."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from models import zoo
from tests.service.harness import PATIENCE_S, SENSOR, HttpSession, random_events, running_server


def test_a_network_that_loads_slowly_holds_up_no_other(tmp_path: Path) -> None:
    for name in ("edge-s", "edge-l"):
        for file in (f"{name}.json", f"{name}.safetensors"):
            shutil.copy(zoo.ZOO / file, tmp_path)
    weights = tmp_path / "edge-l.safetensors"
    with (
        running_server(zoo=tmp_path, codec_workers=1) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        # A disk that does not answer: reading waits until somebody writes.
        weights.unlink()
        os.mkfifo(weights)
        body = {"sensor": {"width": SENSOR.width, "height": SENSOR.height}, "model": "edge-l"}
        opened = pool.submit(httpx.post, f"{url}/v1/sessions", json=body, timeout=PATIENCE_S)
        # Opening returns once the server reads.
        with weights.open("wb") as disk:
            session = HttpSession(http)
            assert session.events(random_events(1))
            assert not opened.done()
            disk.write((zoo.ZOO / weights.name).read_bytes())
        assert opened.result().status_code == 201
