"""How the paper's networks are kept: packing, shards, cards, and what happens when something of it is missing."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import zoo
from models.architectures.paper import Kind, PaperConfig, PaperNetwork, fold_bntt, synapses
from models.classes import DDD17_CLASSES, SegmentationClass
from models.coding import InputCoding
from models.errors import UnknownModelError, WeightsError
from models.events import EventBatch, SensorSize
from models.runtime.paper import PaperRuntime
from models.runtime.protocol import FrameModel, ProtocolModel
from models.runtime.streaming import StreamingModel
from models.zoo.packing import SHARD_BYTES, join, pack, split, unpack

SENSOR = SensorSize(40, 30)
CODING = InputCoding(height=12, width=16)
VOC_CLASSES = tuple(SegmentationClass(k, f"class {k}", (k, 2 * k, 3 * k)) for k in range(21))


@lru_cache
def folded(config: PaperConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return fold_bntt(PaperNetwork(config))


DEEPLAB = PaperConfig("deeplab", steps=2)
FCN = PaperConfig("fcn", steps=2)


def save_events(folder: Path, name: str = "paper", config: PaperConfig = DEEPLAB, coding: InputCoding = CODING) -> None:
    zoo.save_paper(name, config, coding, folded(config), DDD17_CLASSES, {"window_us": 50_000, "licence": "x"}, folder)


@pytest.mark.parametrize("config", [DEEPLAB, FCN, PaperConfig("fcn", spiking=False)])
def test_packed_weights_come_back_within_half_a_step(config: PaperConfig) -> None:
    weights = folded(config)
    packed = pack(config, weights)
    back = unpack(config, packed)
    assert set(back) == set(weights)
    for name, s in synapses(config).items():
        weight, scale = weights[f"{name}.weight"], packed[f"{name}.weight.scale"]
        assert packed[f"{name}.weight"].dtype == torch.int8
        assert scale.shape == (s.cout,)
        axis = 1 if s.transposed else 0
        error = (back[f"{name}.weight"] - weight).abs().movedim(axis, 0).flatten(1).amax(1)
        largest = weight.abs().movedim(axis, 0).flatten(1).amax(1)
        assert (error <= largest / 254 * 1.0001).all()
    for name in set(weights) - {f"{name}.weight" for name in synapses(config)}:
        assert torch.equal(back[name], weights[name])
    # A second time, nothing more is lost.
    again = pack(config, back)
    assert all(torch.equal(again[name], packed[name]) for name in packed if packed[name].dtype == torch.int8)


def test_a_channel_of_zeros_stays_zero() -> None:
    weights = dict(folded(DEEPLAB))
    weights["score.weight"] = torch.zeros_like(weights["score.weight"])
    assert not unpack(DEEPLAB, pack(DEEPLAB, weights))["score.weight"].any()


def test_what_was_not_packed_is_named() -> None:
    packed = pack(DEEPLAB, folded(DEEPLAB))
    with pytest.raises(WeightsError, match=r"conv3\.weight or its scale is missing"):
        unpack(DEEPLAB, {name: t for name, t in packed.items() if name != "conv3.weight.scale"})
    with pytest.raises(WeightsError, match=r"conv3\.weight and its scale do not go together"):
        unpack(DEEPLAB, {**packed, "conv3.weight": packed["conv3.weight"].float()})
    with pytest.raises(WeightsError, match=r"conv3\.weight and its scale do not go together"):
        unpack(DEEPLAB, {**packed, "conv3.weight.scale": torch.ones(3)})


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=6), st.integers(5, 60))
def test_shards_hold_everything_once_and_stay_small(shapes: list[tuple[int, int]], limit: int) -> None:
    tensors = {
        f"t{k}": torch.arange(rows * row, dtype=torch.int8).reshape(rows, row) for k, (rows, row) in enumerate(shapes)
    }
    shards = split(tensors, limit)
    assert all(sum(t.numel() for t in shard.values()) <= limit for shard in shards)
    back = join(shards)
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_a_missing_part_is_named() -> None:
    shards = split({"big": torch.zeros(10, 4, dtype=torch.int8)}, 16)
    assert [list(shard) for shard in shards] == [["big@0"], ["big@1"], ["big@2"]]
    with pytest.raises(WeightsError, match=r"big lacks a part: there are \[0, 2\]"):
        join([shards[0], shards[2]])
    with pytest.raises(WeightsError, match="parts of weight big do not fit together"):
        join([shards[0], {"big@1": torch.zeros(1, 5, dtype=torch.int8)}])


@pytest.mark.parametrize("kind", ["deeplab", "fcn"])
def test_a_saved_network_is_small_and_answers_as_its_packed_weights_do(tmp_path: Path, kind: Kind) -> None:
    config = PaperConfig(kind)
    save_events(tmp_path, config=config)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert all(file.stat().st_size <= 8_000_000 for file in files)
    assert [file.name for file in files] == [
        f"paper-{k:05}-of-{len(files):05}.safetensors" for k in range(1, len(files) + 1)
    ]
    assert sum(file.stat().st_size for file in files) < 1.1 * sum(w.numel() for w in folded(config).values()) + 500_000
    model = zoo.load("paper", tmp_path, expect=ProtocolModel, backend="torch")
    assert (model.name, model.window_us, model.classes, model.steps) == ("paper", 50_000, DDD17_CLASSES, 20)
    assert (model.runtime.config, model.coding) == (config, CODING)
    assert model.card["licence"] == "x"
    x = torch.randint(-1, 2, (20, 1, 2, 12, 16)).float()
    runtime = PaperRuntime(config, unpack(config, pack(config, folded(config))))
    assert model.runtime.run(x).state.equals(runtime.run(x).state)


def test_int8_weights_fire_nearly_as_the_others() -> None:
    exact = PaperRuntime(DEEPLAB, folded(DEEPLAB))
    rounded = PaperRuntime(DEEPLAB, unpack(DEEPLAB, pack(DEEPLAB, folded(DEEPLAB))))
    x = torch.randint(-1, 2, (2, 1, 2, 24, 24)).float()
    counts = [runtime.run(x).spike_counts for runtime in (exact, rounded)]
    for name, count in counts[0].items():
        assert int(counts[1][name]) == pytest.approx(int(count), rel=0.05)


def test_a_network_of_frames_is_loaded_and_listed_apart(tmp_path: Path) -> None:
    config = PaperConfig("deeplab", classes=21, input_channels=3, steps=2)
    zoo.save_paper("voc", config, InputCoding("frames"), folded(config), VOC_CLASSES, {}, tmp_path)
    save_events(tmp_path)
    assert zoo.names(tmp_path) == ("paper", "voc")
    assert zoo.names(tmp_path, input="events") == ("paper",)
    assert zoo.names(tmp_path, input="frames") == ("voc",)
    assert "edge-s" in zoo.names(input="events")
    model = zoo.load("voc", tmp_path, expect=FrameModel)
    assert model.classes == VOC_CLASSES
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    answer = model.segment_frame(rgb)
    assert answer.mask.shape == (30, 40)
    assert answer.mask.max() < 21
    assert isinstance(zoo.load_any("voc", tmp_path), FrameModel)
    assert isinstance(zoo.load_any("edge-s"), StreamingModel)


def test_a_network_of_another_kind_than_expected_is_refused_with_its_kind(tmp_path: Path) -> None:
    save_events(tmp_path)
    with pytest.raises(
        WeightsError, match="is a network of events that takes T steps from rest, not a streaming network of events"
    ):
        zoo.load("paper", tmp_path)
    with pytest.raises(WeightsError, match="is a streaming network of events, not a network of frames"):
        zoo.load("edge-s", expect=FrameModel)
    with pytest.raises(UnknownModelError, match=r"no model 'other'; there are: paper"):
        zoo.load("other", tmp_path, expect=ProtocolModel)


def test_a_twin_is_kept_too(tmp_path: Path) -> None:
    config = PaperConfig("deeplab", spiking=False)
    save_events(tmp_path, "twin", config, InputCoding(code="direct", height=12, width=16))
    model = zoo.load("twin", tmp_path, expect=ProtocolModel)
    assert model.steps == 1
    answer = model.segment(model.initial_state(SENSOR), EventBatch.empty(), SENSOR)
    assert answer.mask.shape == (30, 40)


def test_missing_or_damaged_shards_are_named(tmp_path: Path) -> None:
    save_events(tmp_path, config=FCN)
    second = tmp_path / "paper-00002-of-00003.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(WeightsError, match=r"paper-00002-of-00003\.safetensors is damaged"):
        zoo.load_any("paper", tmp_path)
    second.unlink()
    with pytest.raises(WeightsError, match=r"paper-00002-of-00003\.safetensors is missing"):
        zoo.load_any("paper", tmp_path)


def test_saving_again_leaves_no_stale_shards(tmp_path: Path) -> None:
    save_events(tmp_path, config=FCN)
    save_events(tmp_path, "paper-b")
    save_events(tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == [
        "paper-00001-of-00001.safetensors",
        "paper-b-00001-of-00001.safetensors",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "has format 'other', this version reads 'spiking-deeplab-edge-1', 'paper-network-1'"),
        ({"config": {"kind": "unet"}}, "cannot be loaded: ValueError: kind is 'unet'"),
        ({"config": {"kind": "deeplab", "steps": 3}}, r"conv1\.scale has shape \(2, 64\), expected \(3, 64\)"),
        ({"coding": {"code": "rate"}}, "cannot be loaded: ValueError: code is 'rate'"),
        ({"coding": {"source": "frames"}}, "cannot be loaded: ValueError: frames have 3 channels"),
        ({"classes": []}, "cannot be loaded: ValueError: the network has 6 classes, 0 are named"),
        ({"window_us": None}, "cannot be loaded: TypeError"),
        ({"files": {}}, "has no digests of its weights"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_events(tmp_path)
    path = tmp_path / "paper.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError, match=message):
        zoo.load_any("paper", tmp_path)


def test_a_card_that_cannot_be_read_is_listed_and_named_when_loaded(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    assert zoo.names(tmp_path, input="events") == ("broken", "list")
    for name in ("broken", "list"):
        with pytest.raises(WeightsError, match=f"model '{name}' cannot be loaded"):
            zoo.load_any(name, tmp_path)


def test_the_shard_limit_leaves_room_for_a_header() -> None:
    assert SHARD_BYTES < 8_000_000
