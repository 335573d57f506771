"""Conversion of an ANN into spiking neurons: worked by hand, against SpikingJelly, and as a whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron
from torch import Tensor

from models import zoo
from models.architectures.edge import EdgeConfig, EdgeDeepLab, fold_batch_norm
from models.architectures.paper import PaperConfig, PaperNetwork, fold_bntt
from models.classes import DDD17_CLASSES
from models.coding import InputCoding
from models.errors import TrainingError
from models.runtime.protocol import ProtocolModel
from models.training import convert
from models.training.convert import (
    Ann,
    Neurons,
    as_ann,
    balance_thresholds,
    calibration_inputs,
    integrate_and_fire,
    network_input,
    run_converted,
)
from models.training.evaluate import SENSOR, camvid_events


def one_layer(x: Tensor, neurons: Neurons) -> Tensor:
    """A network of one ReLU that passes its input on."""
    return neurons("unit", x)


def ann_of(graph: convert.Graph) -> Ann:
    return Ann(graph, frozenset(), lambda logits: logits.argmax(1)[0].to(torch.uint8).numpy())


def test_a_spike_is_worth_its_threshold() -> None:
    current = torch.tensor([0.5, 2.0, 5.0, -1.0]).reshape(1, 1, 1, 4)
    v = torch.tensor([0.5, 0.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    out, after = integrate_and_fire(current, v, torch.tensor([2.0]).reshape(1, 1, 1))
    assert out.flatten().tolist() == [0, 2, 2, 0]
    assert after.flatten().tolist() == [1, 0, 3, -1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.25, 4))
def test_neurons_are_those_of_spikingjelly(seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    node = neuron.IFNode(v_threshold=1.0, v_reset=None)
    v = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    level = torch.full((2, 1, 1), threshold, dtype=torch.float64)
    for _ in range(6):
        current = torch.randn(v.shape, generator=generator, dtype=torch.float64)
        out, v = integrate_and_fire(current, v, level)
        torch.testing.assert_close(out, node(current / level) * level)
        torch.testing.assert_close(v, node.v * level)


def test_thresholds_are_percentiles_of_the_activations() -> None:
    x = torch.stack([torch.linspace(0, 1, 101), torch.linspace(0, 10, 101)]).reshape(1, 2, 1, 101)
    ann = ann_of(one_layer)
    assert balance_thresholds(ann, [x], 90, "channel")["unit"].flatten().tolist() == pytest.approx([0.9, 9.0])
    # Of all 202 values nine tenths lie below 8: the upper channel's fifth above it is a tenth of both.
    assert balance_thresholds(ann, [x], 90, "layer")["unit"].flatten().tolist() == pytest.approx([8.0, 8.0], abs=0.05)
    assert balance_thresholds(ann, [x], 90, "layer", scale=0.7)["unit"].max() == pytest.approx(5.6, abs=0.05)
    assert balance_thresholds(ann, [-x], 90)["unit"].tolist() == [[[1.0]], [[1.0]]], "silent channels stay silent"


def test_rates_come_to_the_activations_as_steps_grow() -> None:
    x = torch.tensor([0.0, 0.1, 0.37, 0.9, 1.0, -0.5]).reshape(1, 1, 1, 6)
    means = [mean for mean, _ in run_converted(ann_of(one_layer), {"unit": torch.ones(1, 1, 1)}, x, 200)]
    errors = [float((mean - x.relu()).abs().max()) for mean in means]
    assert errors[0] >= 0.37
    assert errors[-1] <= 1 / 200
    rates = [rate for _, rate in run_converted(ann_of(one_layer), {"unit": torch.ones(1, 1, 1)}, x, 200)]
    assert rates[-1] == pytest.approx(float(x.relu().mean()), abs=0.01)


def paper_pair(folder: Path, kind: str = "deeplab") -> None:
    """A small-stepped paper network and its twin with random weights."""
    torch.manual_seed(0)
    for name, spiking in (("paper-x", True), ("paper-x-ann", False)):
        config = PaperConfig(kind=kind, steps=2, spiking=spiking)  # type: ignore[arg-type]
        coding = InputCoding(code="direct", normalisation="count", height=16, width=16)
        card = {"window_us": 33_333}
        zoo.save_paper(name, config, coding, fold_bntt(PaperNetwork(config)), DDD17_CLASSES, card, folder)


@pytest.mark.parametrize("kind", ["deeplab", "fcn"])
def test_a_converted_paper_network_comes_to_its_twin(kind: str, tmp_path: Path, data_tree: Path) -> None:
    paper_pair(tmp_path, kind)
    twin = zoo.load("paper-x-ann", tmp_path, expect=ProtocolModel)
    windows = camvid_events(data_tree)
    ann = as_ann(twin)
    x = network_input(twin, windows[:2])
    thresholds = balance_thresholds(ann, calibration_inputs(twin, 1, data_tree), 100)
    *_, (logits, _) = run_converted(ann, thresholds, x, 300)
    mask = twin.segment(twin.initial_state(SENSOR), windows[1].events, SENSOR).mask
    assert (ann.mask(logits) == mask).mean() > 0.9


def test_a_converted_streaming_twin_sees_the_windows_that_the_twin_sees(tmp_path: Path, data_tree: Path) -> None:
    torch.manual_seed(0)
    config = EdgeConfig(stem=4, stride4=4, stride8=8, pyramid=4, decoder=4, input_channels=16, spiking=False)
    zoo.save("x-ann", config, fold_batch_norm(EdgeDeepLab(config).eval()), {"window_us": 33_333}, tmp_path)
    twin = zoo.load("x-ann", tmp_path)
    windows = camvid_events(data_tree)
    state = twin.initial_state(SENSOR)
    for window in windows:
        answer = twin.segment(state, window.events, SENSOR)
        state = answer.state
    ann = as_ann(twin)

    def relu(name: str, current: Tensor) -> Tensor:
        return current if name in ann.linear else current.relu()

    with torch.inference_mode():
        np.testing.assert_array_equal(ann.mask(ann.graph(network_input(twin, windows), relu)), answer.mask)


def test_the_command_writes_a_score_for_every_number_of_steps(
    data_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKESEG_DATA", str(data_tree))
    paper_pair(tmp_path)
    monkeypatch.setattr(convert.zoo, "ZOO", tmp_path)
    monkeypatch.setattr(convert, "report", lambda name, **kw: report(name, folder=tmp_path, **kw))
    out = tmp_path / "results" / "x.json"
    command = ["convert", "--model", "paper-x", "--frames", "1", "--steps", "5", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    convert.main()
    written = json.loads(out.read_text())
    assert [point["steps"] for point in written["converted"]] == [1, 2, 5]
    assert written["direct"]["steps"] == 2
    assert set(written["twin"]["class_iou"]) == {c.name for c in DDD17_CLASSES}
    with pytest.raises(TrainingError, match="only an ANN twin can be converted"):
        as_ann(zoo.load("paper-x", tmp_path, expect=ProtocolModel))


report = convert.report
