"""Operations and energy: against the runtime, against SpikingJelly's and NeuroBench's counters, and by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import zoo
from models.architectures.edge import READOUT, EdgeConfig, EdgeDeepLab, fold_batch_norm, layer_macs
from models.events import EventBatch
from models.runtime.edge import EdgeRuntime
from models.training import counters
from models.training import energy as report
from models.training.evaluate import SENSOR, WINDOW_US, LabelledWindow
from models.training.folded import FoldedNetwork, count_window, effective_operations
from models.training.history import HISTORY

SNN = EdgeConfig(stem=8, stride4=8, stride8=16, pyramid=8, decoder=8, pyramid_rates=(1, 3))
ANN = EdgeConfig(
    stem=8, stride4=8, stride8=16, pyramid=8, decoder=8, pyramid_rates=(1, 3), input_channels=2 * HISTORY, spiking=False
)
HEIGHT, WIDTH = 33, 41


def weights(config: EdgeConfig, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    network = EdgeDeepLab(config).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.0, 0.6)
    return fold_batch_norm(network)


def stream(steps: int, highest: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(1, highest + 1, (steps, 1, 2, HEIGHT, WIDTH), generator=generator).float()
    return list(counts * (torch.rand(counts.shape, generator=generator) < 0.15))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from more threads, and on a busy machine they lose much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def snn() -> FoldedNetwork:
    return FoldedNetwork(SNN, weights(SNN), HEIGHT, WIDTH)


@pytest.fixture
def ann() -> FoldedNetwork:
    return FoldedNetwork(ANN, weights(ANN), HEIGHT, WIDTH)


@pytest.mark.parametrize("config", [SNN, ANN], ids=["snn", "ann"])
def test_the_module_does_what_the_runtime_does(config: EdgeConfig) -> None:
    folded = weights(config)
    runtime, module = EdgeRuntime(config, folded), FoldedNetwork(config, folded, HEIGHT, WIDTH)
    state = runtime.initial_state(1, HEIGHT, WIDTH)
    first = None
    for x in stream(4):
        result = runtime.step(state, x)
        state = result.state
        with torch.no_grad():
            logits, _, outputs = module.forward_with_traffic(x)
        first = logits if first is None else first
        torch.testing.assert_close(logits, result.logits, atol=1e-5, rtol=1e-5)
        for name, count in result.spike_counts.items():
            if name != "input":
                assert int(outputs[name].sum()) == int(count), name
    module.rest()
    torch.testing.assert_close(module(stream(4)[0]), first)


def test_padded_operations_are_the_share_of_active_inputs(snn: FoldedNetwork) -> None:
    runtime = EdgeRuntime(SNN, weights(SNN))
    state = runtime.initial_state(1, HEIGHT, WIDTH)
    for x in stream(4):
        result = runtime.step(state, x)
        state = result.state
        counts = count_window(snn, x)
    activity = runtime.activity(result.counts_of(0), HEIGHT, WIDTH)
    macs = layer_macs(SNN, HEIGHT, WIDTH)
    for layer in activity.layers:
        count = counts[layer.name]
        assert (count.neurons, count.active) == (layer.neurons, layer.spikes)
        assert 0 < count.effective <= count.active_inputs / count.inputs * macs[layer.name] * 1.001
        # The decoder's input is cut to size after doubling, which the activity of a service does not look into.
        tolerance = 0.1 if layer.name == "decoder" else 1e-9
        assert count.active_inputs / count.inputs * macs[layer.name] == pytest.approx(layer.sops, rel=tolerance)


def test_effective_operations_by_hand() -> None:
    conv = nn.Conv2d(1, 3, 3, stride=1, padding=1)
    corner, middle = torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 5, 5)
    corner[0, 0, 0, 0] = 2.5
    middle[0, 0, 2, 2] = -1.0
    assert effective_operations(corner, conv) == 4 * 3
    assert effective_operations(middle, conv) == 9 * 3
    with torch.no_grad():
        conv.weight[0] = 0
        conv.weight[1, 0, 1, 1] = 0
    assert effective_operations(middle, conv) == 9 * 2 - 1
    wide = nn.Conv2d(1, 1, 3, padding=12, dilation=12)
    assert effective_operations(middle, wide) == 1, "all taps but the middle one miss the grid"


def test_spikingjelly_counts_the_same_accumulates_layer_by_layer(snn: FoldedNetwork) -> None:
    xs = stream(5)
    ours = [count_window(snn, x) for x in xs]
    theirs = counters.count_with_spikingjelly(snn, xs)
    expected = {name: sum(c[name].effective for c in ours) for name in snn.convs}
    # It takes the first layer's input, counts and no spikes, for multiply-accumulates: all of them, padding too.
    stem = expected.pop("stem")
    assert theirs["synops_by_layer"] == {"stem": 0, **expected}
    assert theirs["synops"] == sum(expected.values())
    assert theirs["macs"] == 5 * layer_macs(SNN, HEIGHT, WIDTH)["stem"] > stem


def test_counters_of_others_take_counts_of_one_for_spikes(snn: FoldedNetwork) -> None:
    x = stream(1, highest=1)[0]
    stem = count_window(snn, x)["stem"].effective
    theirs = counters.count_with_spikingjelly(snn, [x])
    assert theirs["synops_by_layer"]["stem"] == stem
    assert theirs["macs"] == 0


def test_spikingjelly_counts_a_twin_as_dense(ann: FoldedNetwork) -> None:
    xs = stream(2)
    theirs = counters.count_with_spikingjelly(ann, xs)
    assert theirs["macs"] == 2 * sum(layer_macs(ANN, HEIGHT, WIDTH).values())
    assert theirs["synops"] == 0


needs_neurobench = pytest.mark.skipif(not counters.has_neurobench(), reason="NeuroBench is not installed")


@needs_neurobench
def test_neurobench_counts_the_same_operations(snn: FoldedNetwork) -> None:
    comparison = counters.compare_counters(snn, stream(5))
    ours, theirs = comparison["ours"], comparison["neurobench"]
    assert comparison["neurobench_minus_ours"] == {"effective_macs": 0, "effective_acs": 0}
    assert comparison["spikingjelly_synops_are_our_effective_acs"]
    assert comparison["spikingjelly_macs_are_our_dense_analog_macs"]
    assert theirs["activation_sparsity"] == pytest.approx(ours["activation_sparsity"], abs=1e-12)
    # Its dense operations leave the padding out.
    assert 0.7 < theirs["dense"] / (5 * sum(layer_macs(SNN, HEIGHT, WIDTH).values())) < 1
    runtime = EdgeRuntime(SNN, weights(SNN))
    held = runtime.initial_state(1, HEIGHT, WIDTH).nbytes + sum(4 * w.numel() for w in weights(SNN).values())
    assert theirs["footprint_bytes"] == held


@needs_neurobench
def test_neurobench_counts_a_twin_by_what_is_not_zero(ann: FoldedNetwork) -> None:
    comparison = counters.compare_counters(ann, stream(3))
    assert comparison["neurobench_minus_ours"] == {"effective_macs": 0, "effective_acs": 0}
    assert 0 < comparison["ours"]["effective_macs"] < comparison["ours"]["dense_analog_macs"]


def test_energy_by_hand() -> None:
    assert report.energy(1e6, 0) == {"fp32_45nm": 4.6e-6, "int8_45nm": 0.23e-6}
    assert report.energy(0, 1e6) == {"fp32_45nm": 0.9e-6, "int8_45nm": 0.03e-6}
    window = {"firing_rate": 0.1, "dense_macs": 3000, "energy_j": {"padded": report.energy(1e6, 0)}}
    each_second = 1e6 / WINDOW_US
    assert report.per_second(window) == {
        "dense_macs": round(3000 * each_second),
        "power_w": {"padded": {"fp32_45nm": 138e-6, "int8_45nm": 6.9e-6}},
    }


def test_latency_is_compared_window_by_window() -> None:
    latency = report.latency_report([10.0, 20.0, 30.0], [20.0, 60.0, 30.0])
    assert latency["snn_ms"] == {"p50": 20.0, "p95": 29.0}
    assert latency["ann_over_snn_p50"] == 2.0
    assert "ann_ms" not in report.latency_report([10.0], None)


def test_networks_are_replayed_side_by_side_with_their_state() -> None:
    model = zoo.load("edge-s")
    windows = [LabelledWindow(k * WINDOW_US, EventBatch.empty(), None) for k in range(2)]
    first, second = report.replay([model, model], windows, warm_up=1)
    assert first.activities == second.activities
    assert len(first.milliseconds) == 2
    state = model.initial_state(SENSOR)
    for window, activity in zip(windows, first.activities, strict=True):
        answer = model.segment(state, window.events, SENSOR)
        state = answer.state
        assert answer.activity == activity


@pytest.fixture
def small_zoo(tmp_path: Path) -> Path:
    """Networks ``small`` and ``small-ann`` with random weights."""
    for name, config in (("small", SNN), ("small-ann", ANN)):
        zoo.save(name, config, weights(config), {"window_us": WINDOW_US}, tmp_path)
    return tmp_path


def test_a_report_adds_up(data_tree: Path, small_zoo: Path) -> None:
    result = report.report("small", "small-ann", counter_windows=2, root=data_tree, folder=small_zoo)
    assert result["windows"] == 4
    snn, ann = result["snn"], result["ann"]
    window, layers = snn["per_window"], snn["layers"]
    assert [layer["operation"] for layer in layers] == ["mac"] + ["ac"] * (len(layers) - 1)
    assert layers[-1]["name"] == READOUT
    assert window["effective_macs"] + window["effective_acs"] == sum(layer["sops_effective"] for layer in layers)
    assert window["sops_padded"] == sum(layer["sops_padded"] for layer in layers) > window["effective_acs"]
    for how in ("padded", "effective"):
        parts = sum(layer["energy_j"][how]["fp32_45nm"] for layer in layers)
        assert window["energy_j"][how]["fp32_45nm"] == pytest.approx(parts, rel=1e-3)
        ratio = ann["per_window"]["energy_j"][how]["int8_45nm"] / window["energy_j"][how]["int8_45nm"]
        assert result["ann_over_snn_energy"][how]["int8_45nm"] == pytest.approx(ratio, abs=0.01)
    assert ann["per_window"]["dense_macs"] == sum(layer_macs(ANN, SENSOR.height, SENSOR.width).values())
    assert 0 < ann["per_window"]["effective_macs"] < ann["per_window"]["dense_macs"]
    assert "memory traffic and neuron updates are not in it" in result["note"]
    assert result["counters"]["snn"]["spikingjelly_synops_are_our_effective_acs"]
    assert np.isfinite(result["latency"]["ann_over_snn_p50"])


def test_the_command_writes_a_report_without_a_twin(
    data_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "energy.json"
    monkeypatch.setenv("SPIKESEG_DATA", str(data_tree))
    monkeypatch.setattr("sys.argv", ["energy", "--model", "edge-s", "--frames", "1", "--out", str(out)])
    report.main()
    result = json.loads(out.read_text())
    assert result["command"].startswith("python -m models.training.energy --model edge-s --frames 1")
    assert result["windows"] == 2
    assert result["ann"]["model"] is None
    assert list(result["ann_over_snn_energy"]) == ["padded"]
    assert result["ann"]["per_window"]["dense_macs"] > result["snn"]["per_window"]["dense_macs"]
    assert result["machine"]["cores"] >= 1
