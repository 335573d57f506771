"""The image and docker-compose.yml do what docs/deploy.md says.

That they do so with a real Docker daemon takes minutes and is tested if SPIKESEG_TEST_CONTAINER=1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.container.prove import prove, reason_not_to_run

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
SEEN = json.loads((ROOT / "docs" / "results" / "container.json").read_text())

COMPUTE_ALL = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
import numpy as np
import clients.cli.main, service.app
from models import events, zoo
from models.runtime.protocol import FrameModel

sensor = events.SensorSize(64, 48)
for card in sorted(zoo.ZOO.glob("*.json")):
    model = zoo.load_any(card.stem)
    if isinstance(model, FrameModel):
        model.segment_frame(np.zeros((48, 64, 3), np.uint8))
    else:
        model.segment(model.initial_state(sensor), events.EventBatch.empty(), sensor)
    print(card.stem)
"""


@pytest.mark.skipif(os.environ.get("SPIKESEG_TEST_CONTAINER") != "1", reason="SPIKESEG_TEST_CONTAINER is not 1")
def test_the_built_image_serves_drains_and_fails_over() -> None:
    """Of the image ``spikeseg``; SPIKESEG_TEST_STAND_IN names an image for third parties' programs."""
    if reason := reason_not_to_run():
        pytest.skip(reason)
    report = prove(os.environ.get("SPIKESEG_TEST_STAND_IN"))
    assert report["drain"]["exit_code"] == 0
    assert report["keys"] == {"without_token": 401, "with_token": 200}
    assert report["scale"]["sessions_taken_over"] >= 1


def test_every_network_computes_without_the_packages_that_the_image_leaves_out() -> None:
    uninstalled = re.search(r"pip uninstall --yes ([^&]*?)\n#", (ROOT / "Dockerfile").read_text())
    assert uninstalled
    names = uninstalled[1].replace("\\", " ").split()
    modules = {"tensorboard-data-server": "tensorboard_data_server", "grpcio": "grpc", "fonttools": "fontTools"}
    modules["SciencePlots"] = "scienceplots"
    done = subprocess.run(
        [sys.executable, "-c", COMPUTE_ALL, *(modules.get(name, name) for name in names)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "edge-s" in done.stdout.split()


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
@pytest.mark.parametrize("extra", [[], ["docker-compose.keys.yml"], ["docker-compose.cuda.yml"]])
def test_docker_compose_accepts_the_files(extra: list[str]) -> None:
    files = [part for file in ("docker-compose.yml", *extra) for part in ("-f", file)]
    command = ["docker-compose", *files, "--profile", "scale", "--profile", "demo", "config", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_figures_in_the_document_are_those_of_the_committed_proof() -> None:
    machine = SEEN["machine"]
    for figure in (
        f"{SEEN['image_bytes_above_base'] / 1e9:.2f} GB above its base",
        f"ready {SEEN['service']['seconds_to_ready']:.1f} s after",
        f"{machine['cores']} cores",
        f"Docker {machine['docker']}",
        f"docker-compose {machine['compose']}",
    ):
        assert figure in " ".join(DEPLOY.split())
    assert SEEN["drain"]["exit_code"] == 0


def test_the_document_says_what_the_committed_proof_left_out() -> None:
    assert ("Grafana" in _not_run()) == (not SEEN["grafana"])
    assert ("the makers' own images" in _not_run()) == SEEN["stand_ins_for_third_party_images"]


def _not_run() -> str:
    found = re.search(r"\*\*([^*]*were not run[^*]*)\*\*", DEPLOY)
    return " ".join(found[1].split()) if found else ""
