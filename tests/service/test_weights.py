"""What the service loads: files of the zoo alone, and nothing that runs code while it is read."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from models import zoo
from models.errors import ModelsError
from service.streaming.checkpoints import MEDIA_TYPE as STATE_MEDIA_TYPE
from tests.service.harness import PATIENCE_S, problem_of, running_server

LOAD_EVERYTHING = """
import sys
from models import zoo
from service.streaming.checkpoints import Checkpoint, decode_checkpoint, encode_checkpoint
import numpy as np

def watch(event, arguments):
    if event.startswith(("pickle.", "marshal.load")) or event in ("exec", "compile"):
        seen.append((event, str(arguments)[:200]))

# Modules are compiled and run when they are first imported: the second time is what is looked at.
seen = []
for name in zoo.names():
    zoo.load_any(name)
sys.addaudithook(watch)
seen.clear()
for name in zoo.names():
    zoo.load_any(name)
decode_checkpoint(encode_checkpoint(Checkpoint({}, {"a": np.zeros(3, np.float32)})))
found = list(seen)
import pickle
pickle.loads(pickle.dumps(print))
assert len(seen) > len(found), "the watch sees nothing"
print(len(zoo.names()), found)
"""


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_no_weights_and_no_snapshot_are_unpickled_or_run() -> None:
    run = subprocess.run([sys.executable, "-c", LOAD_EVERYTHING], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == f"{len(zoo.names())} []"


@pytest.mark.parametrize("name", ["edge-s", "paper-deeplab-00001-of-00001"])
def test_a_pickle_that_calls_itself_weights_is_not_run(tmp_path: Path, name: str) -> None:
    model = name.partition("-00001")[0]
    shutil.copy(zoo.ZOO / f"{model}.json", tmp_path)
    for file in zoo.ZOO.glob(f"{model}*.safetensors"):
        (tmp_path / file.name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(ModelsError):
        zoo.load_any(model, tmp_path)
    assert not (tmp_path / "exploded").exists()
    pickle.loads((tmp_path / file.name).read_bytes())
    assert (tmp_path / "exploded").exists(), "it was none"


def test_names_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    for file in ("edge-s.json", "edge-s.safetensors"):
        shutil.copy(zoo.ZOO / file, folder)
        shutil.copy(zoo.ZOO / file, tmp_path / file.replace("edge-s", "outside"))
    up = ("../outside", "inside/../../outside", "..%2Foutside", "..\\outside")
    with running_server(zoo=folder) as url, httpx.Client(base_url=url) as http:
        for name in (*up, str(tmp_path / "outside"), ".", "", "edge-s\0", "*"):
            body = {"sensor": {"width": 64, "height": 48}, "model": name}
            problem = problem_of(http.post("/v1/sessions", json=body), 404)
            assert problem["type"] == "urn:spikeseg:problem:unknown-model"
        for path in ("..%2Foutside", "%2e%2e%2foutside", "edge-s%2F..%2F..%2Foutside", "..%5coutside"):
            assert http.get(f"/v2/models/{path}/ready").status_code == 404
        for files, secret in (("viewer", "app.py"), ("docs/assets", "main.py")):
            for way in ("..%2f", "%2e%2e/", "..%5c"):
                assert http.get(f"/{files}/{way}{secret}").status_code == 404


def damaged_zoo(folder: Path, damaged: str) -> Path:
    """A zoo of edge-s and edge-s-ann in which one bit of one network's weights is another."""
    for file in ("edge-s.json", "edge-s.safetensors", "edge-s-ann.json", "edge-s-ann.safetensors"):
        shutil.copy(zoo.ZOO / file, folder)
    path = folder / f"{damaged}.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return folder


def test_a_flipped_bit_of_a_network_is_found_at_the_start(tmp_path: Path) -> None:
    with running_server(zoo=damaged_zoo(tmp_path, "edge-s-ann")) as url, httpx.Client(base_url=url) as http:
        ready = http.get("/v2/health/ready")
        assert ready.status_code == 200
        model = ready.json()["components"]["model"]
        assert model["status"] == "degraded"
        assert "edge-s-ann.safetensors is damaged" in model["reason"]
        assert [found["name"] for found in http.get("/v1/models").json()["models"]] == ["edge-s"]
        body = {"sensor": {"width": 64, "height": 48}, "model": "edge-s-ann"}
        problem = problem_of(http.post("/v1/sessions", json=body), 503)
        assert problem["type"] == "urn:spikeseg:problem:model-unavailable"


def test_a_server_does_not_start_with_a_damaged_default_model(tmp_path: Path) -> None:
    ended = start(SPIKESEG_ZOO=str(damaged_zoo(tmp_path, "edge-s")))
    assert ended.returncode == 3
    assert "edge-s.safetensors is damaged" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_replica_without_the_kernel_does_not_join_a_fleet(tmp_path: Path) -> None:
    without = {"PATH": "", "CC": str(tmp_path / "no-compiler"), "XDG_CACHE_HOME": str(tmp_path)}
    ended = start(**without, SPIKESEG_STORE_URL="redis://127.0.0.1:1/0")
    assert ended.returncode == 3
    assert "SPIKESEG_BACKEND=torch" in ended.stderr


def start(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "service"],
        env={**os.environ, "SPIKESEG_PORT": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_a_snapshot_stays_with_the_backend_that_took_it(server: str) -> None:
    with running_server(backend="torch") as url, httpx.Client(base_url=url) as torch:
        body = {"sensor": {"width": 64, "height": 48}, "model": "edge-s"}
        session = torch.post("/v1/sessions", json=body).json()["session"]
        snapshot = torch.get(f"/v1/sessions/{session}/state").content
    with httpx.Client(base_url=server) as http:
        answer = http.post("/v1/sessions", content=snapshot, headers={"Content-Type": STATE_MEDIA_TYPE})
        assert "with a backend other than event-driven (SPIKESEG_BACKEND)" in problem_of(answer, 422)["detail"]
