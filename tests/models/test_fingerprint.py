"""A network's fingerprint: the same for the same network, another one for any other."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import zoo
from models.architectures.paper import PaperConfig
from models.coding import InputCoding
from models.errors import UnknownModelError, WeightsError
from tests.models.test_zoo_formats import FCN, save_events


def copy(folder: Path, name: str = "edge-s") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("edge-s.json", "edge-s.safetensors"):
        shutil.copyfile(zoo.ZOO / file, folder / file.replace("edge-s", name))
    return folder


def change_card(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def flip(path: Path, at: int) -> bytes:
    """Change one bit of a file; what it holds then."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    return bytes(data)


def test_a_loaded_network_has_it_and_copies_share_it(tmp_path: Path) -> None:
    expected = zoo.fingerprint("edge-s")
    assert len(expected) == 64
    assert int(expected, 16)
    assert zoo.load_events("edge-s").fingerprint == expected
    assert zoo.fingerprint("edge-s", copy(tmp_path)) == expected
    assert zoo.fingerprint("other", copy(tmp_path, "other")) == expected
    assert zoo.fingerprint("edge-s-ann") != expected


def test_scores_and_training_are_not_in_it(tmp_path: Path) -> None:
    copy(tmp_path)
    change_card(tmp_path / "edge-s.json", lambda card: [card.pop(key) for key in ("evaluation", "training", "notes")])
    assert zoo.fingerprint("edge-s", tmp_path) == zoo.fingerprint("edge-s")


@pytest.mark.parametrize("at", [8, 1_000, -1])
def test_a_byte_of_the_weights_is_in_it(tmp_path: Path, at: int) -> None:
    path = copy(tmp_path) / "edge-s.safetensors"
    data = flip(path, at)
    with pytest.raises(WeightsError, match=r"edge-s\.safetensors is damaged"):
        zoo.fingerprint("edge-s", tmp_path)
    digest = hashlib.sha256(data).hexdigest()
    change_card(tmp_path / "edge-s.json", lambda card: card.update(files={path.name: digest}))
    assert zoo.fingerprint("edge-s", tmp_path) != zoo.fingerprint("edge-s")


def test_what_computes_the_network_is_in_it() -> None:
    kernel, torch = (zoo.fingerprint("edge-s", backend=backend) for backend in ("event-driven", "torch"))
    assert kernel != torch
    for backend, expected in (("event-driven", kernel), ("torch", torch)):
        assert zoo.load("edge-s", backend=backend).fingerprint == expected
        assert zoo.fingerprint("edge-s-ann", backend="auto") == zoo.fingerprint("edge-s-ann", backend="torch")


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["config"].update(count_clip=5),
        lambda card: card["classes"][0].update(name="road"),
        lambda card: card.update(window_us=1),
        lambda card: card["config"].pop("grid"),
    ],
)
def test_a_setting_of_the_network_is_in_it(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    copy(tmp_path)
    change_card(tmp_path / "edge-s.json", change)
    assert zoo.fingerprint("edge-s", tmp_path) != zoo.fingerprint("edge-s")


def test_every_shard_and_the_coding_of_a_paper_network_are_in_it(tmp_path: Path) -> None:
    save_events(tmp_path, config=FCN)
    first = zoo.fingerprint("paper", tmp_path)
    assert zoo.load_events("paper", tmp_path).fingerprint == first
    found = {first}
    card = tmp_path / "paper.json"
    before = card.read_text()
    for shard in sorted(tmp_path.glob("*.safetensors")):
        whole = shard.read_bytes()
        digest = hashlib.sha256(flip(shard, -1)).hexdigest()
        change_card(card, lambda card, file=shard.name, digest=digest: card["files"].update({file: digest}))
        found.add(zoo.fingerprint("paper", tmp_path))
        shard.write_bytes(whole)
        card.write_text(before)
    assert len(found) == 4
    change_card(tmp_path / "paper.json", lambda card: card["coding"].update(seed=1))
    assert zoo.fingerprint("paper", tmp_path) not in found
    next(tmp_path.glob("*-00002-*.safetensors")).unlink()
    with pytest.raises(WeightsError, match=r"-00002-of-00003\.safetensors is missing"):
        zoo.fingerprint("paper", tmp_path)


def test_a_network_of_frames_has_one_too(tmp_path: Path) -> None:
    config = PaperConfig("deeplab", input_channels=3, steps=2)
    save_events(tmp_path, config=config, coding=InputCoding("frames"))
    assert len(zoo.fingerprint("paper", tmp_path)) == 64


def test_an_unknown_or_broken_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="no model 'edge-x'"):
        zoo.fingerprint("edge-x")
    (tmp_path / "broken.json").write_text('{"format": "paper-network-1"}')
    with pytest.raises(WeightsError, match="the card of 'broken' has no digests of its weights"):
        zoo.fingerprint("broken", tmp_path)
