"""The streaming runtime against SpikingJelly's own stateful forward, and what an endless stream asks of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional

from models.architectures.edge import (
    READOUT,
    EdgeConfig,
    fold_batch_norm,
    layer_macs,
    layer_shapes,
    sources,
    synapses,
)
from models.errors import StateError, WeightsError
from models.runtime.activity import LayerActivity, SpikeActivity
from models.runtime.edge import EdgeRuntime
from models.runtime.lif import lif_step
from tests.models.edge_networks import SMALL, network, windows


@settings(max_examples=15, deadline=None)
@given(st.integers(9, 40), st.integers(9, 40), st.integers(1, 3), st.floats(0, 0.5), st.integers(0, 1000))
def test_step_by_step_equals_spikingjelly(height: int, width: int, batch: int, density: float, seed: int) -> None:
    net = network(SMALL, seed)
    x = windows(6, batch, height, width, density, seed).float()
    functional.reset_net(net)
    with torch.no_grad():
        expected, spikes = net.forward_with_spikes(x)

    runtime = EdgeRuntime(SMALL, fold_batch_norm(net))
    state = runtime.initial_state(batch, height, width)
    for k in range(len(x)):
        result = runtime.step(state, x[k])
        state = result.state
        torch.testing.assert_close(result.logits, expected[k], atol=1e-4, rtol=1e-4)
        for name, s in spikes.items():
            assert result.spike_counts[name].tolist() == s[k].sum(dim=(1, 2, 3)).long().tolist(), name
    for name, module in net.neurons.items():
        torch.testing.assert_close(state[name], module.v, atol=1e-4, rtol=1e-4)


def test_a_neuron_fires_at_its_threshold_and_keeps_the_rest() -> None:
    v = torch.tensor([0.0, 0.5, 1.5, 0.0]).reshape(1, 1, 1, 4)
    current = torch.tensor([1.0, 0.5, 1.5, 0.9]).reshape(1, 1, 1, 4)
    spikes, after = lif_step(current, v, torch.tensor([0.5]).reshape(1, 1, 1))
    assert spikes.flatten().tolist() == [1, 0, 1, 0]
    torch.testing.assert_close(after.flatten(), torch.tensor([0.0, 0.75, 1.25, 0.9]))


def test_step_changes_neither_state_nor_input() -> None:
    runtime = EdgeRuntime(SMALL, fold_batch_norm(network(SMALL)))
    x = windows(2, 1, 20, 24, 0.2).float()
    state = runtime.step(runtime.initial_state(1, 20, 24), x[0]).state
    before = {name: v.clone() for name, v in state.items()}
    x_before = x.clone()
    first = runtime.step(state, x[1])
    second = runtime.step(state, x[1])
    assert all(torch.equal(v, before[name]) for name, v in state.items())
    assert torch.equal(x, x_before)
    assert first.state.equals(second.state)
    assert torch.equal(first.logits, second.logits)


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    runtime = EdgeRuntime(SMALL, fold_batch_norm(network(SMALL)))
    x = windows(4, 3, 21, 25, 0.2).float()
    together = runtime.initial_state(3, 21, 25)
    alone = [runtime.initial_state(1, 21, 25) for _ in range(3)]
    for k in range(4):
        batched = runtime.step(together, x[k])
        together = batched.state
        for row in range(3):
            single = runtime.step(alone[row], x[k, row : row + 1])
            alone[row] = single.state
            torch.testing.assert_close(batched.logits[row], single.logits[0], atol=1e-5, rtol=1e-5)
            assert all(int(batched.spike_counts[n][row]) == int(c[0]) for n, c in single.spike_counts.items())


def test_shapes_and_operations_match_what_runs() -> None:
    config = EdgeConfig()
    height, width = 65, 90
    shapes = layer_shapes(config, height, width)
    runtime = EdgeRuntime(config, fold_batch_norm(network(config)))
    result = runtime.step(runtime.initial_state(1, height, width), windows(1, 1, height, width, 0.1)[0].float())
    assert {name: tuple(v.shape[1:]) for name, v in result.state.items()} == shapes
    assert shapes[READOUT] == (6, 17, 23)
    assert layer_macs(config, height, width)["stem"] == 2 * 25 * 32 * 33 * 45
    assert set(sources(config)) == set(synapses(config)) == set(shapes)


def test_synaptic_operations_are_the_accumulates_that_input_spikes_cause() -> None:
    runtime = EdgeRuntime(SMALL, fold_batch_norm(network(SMALL)))
    state = runtime.initial_state(1, 32, 32)
    x = windows(1, 1, 32, 32, 0.25)[0].float()
    result = runtime.step(state, x)
    activity = runtime.activity(result.counts_of(0), 32, 32)
    by_name = {layer.name: layer for layer in activity.layers}
    macs = layer_macs(SMALL, 32, 32)
    assert by_name["stem"].sops == pytest.approx(float((x != 0).float().mean()) * macs["stem"])
    context, enc4 = by_name["context"], by_name["enc4"]
    # Each context cell is read as 2x2.
    density = (4 * context.spikes + enc4.spikes) / (4 * context.neurons + enc4.neurons)
    assert context.firing_rate != enc4.firing_rate
    assert by_name["decoder"].sops == pytest.approx(density * macs["decoder"])
    assert by_name["enc4"].sops == pytest.approx(by_name["down4"].firing_rate * macs["enc4"])
    assert activity.macs_ann == sum(macs.values())
    silent = runtime.activity(dict.fromkeys(result.spike_counts, 0), 32, 32)
    assert silent.sops == 0
    assert silent.firing_rate == 0


def test_rates_operations_and_energy_by_hand() -> None:
    stem, middle = LayerActivity("stem", 100, 20, 500.0), LayerActivity("middle", 300, 20, 4000.0)
    activity = SpikeActivity((stem, middle, LayerActivity("readout", 0, 0, 1000.0)), 80_000.0, 2000.0)
    assert [layer.firing_rate for layer in activity.layers] == [0.2, 20 / 300, 0]
    assert activity.firing_rate == 40 / 400
    assert activity.sops == 5500
    # The first layer is paid for dense multiply-accumulates, not for its synaptic operations.
    assert activity.energy_snn_j == pytest.approx(2000 * 4.6e-12 + 5000 * 0.9e-12)
    assert activity.energy_ann_j == pytest.approx(80_000 * 4.6e-12)


def test_synaptic_operations_are_never_less_than_the_effective_ones() -> None:
    runtime = EdgeRuntime(SMALL, fold_batch_norm(network(SMALL)))
    x = (windows(1, 1, 32, 32, 0.25)[0] > 0).float()
    activity = runtime.activity(runtime.step(runtime.initial_state(1, 32, 32), x).counts_of(0), 32, 32)
    effective = SMALL.stem * float(torch.nn.functional.conv2d(x, torch.ones(1, 2, 5, 5), None, 2, 2).sum())
    assert effective < activity.layers[0].sops < 1.1 * effective


def test_an_endless_silence_lets_every_membrane_settle() -> None:
    runtime = EdgeRuntime(SMALL, fold_batch_norm(network(SMALL)))
    state = runtime.initial_state(1, 16, 16)
    for x in windows(5, 1, 16, 16, 0.5).float():
        state = runtime.step(state, x).state
    silent = torch.zeros(1, 2, 16, 16)
    bound = 0.0
    for _ in range(300):
        state = runtime.step(state, silent).state
        bound = max(bound, max(float(v.abs().max()) for v in state.values()))
    weights = fold_batch_norm(network(SMALL))
    slowest = max(float(weights[f"{name}.keep"].max()) for name in synapses(SMALL))
    largest = max(
        float((weights[f"{n}.weight"].abs().sum((1, 2, 3)) + weights[f"{n}.bias"].abs()).max()) for n in synapses(SMALL)
    )
    assert bound <= largest / (1 - slowest)


def test_a_state_of_another_grid_is_refused() -> None:
    runtime = EdgeRuntime(SMALL, fold_batch_norm(network(SMALL)))
    with pytest.raises(StateError, match="layer stem has shape"):
        runtime.step(runtime.initial_state(1, 20, 20), torch.zeros(1, 2, 24, 24))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w.pop("stem.bias"), "stem.bias missing or unknown"),
        (lambda w: w.update({"stem.keep": torch.zeros(3)}), "stem.keep has shape"),
        (lambda w: w["stem.weight"].fill_(float("nan")), "not finite"),
    ],
)
def test_damaged_weights_are_refused(damage: object, message: str) -> None:
    weights = fold_batch_norm(network(SMALL))
    damage(weights)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=message):
        EdgeRuntime(SMALL, weights)
