"""The paper's networks: parameter counts to the digit, layers, surrogates, and the explicit-state runtime."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional

from models.architectures.paper import (
    Kind,
    PaperConfig,
    PaperNetwork,
    dilated_convolution,
    firing_rates,
    fold_bntt,
    input_shapes,
    layer_macs,
    layer_shapes,
    mostly_padding,
    neuron_layers,
    readout,
    sources,
    synapses,
)
from models.errors import StateError, WeightsError
from models.runtime.paper import PaperRuntime, weight_shapes

KINDS: tuple[Kind, ...] = ("deeplab", "fcn")


@pytest.mark.parametrize(
    ("kind", "classes", "channels", "spiking", "parameters"),
    [
        ("deeplab", 6, 2, True, 4_142_720),
        ("deeplab", 6, 2, False, 4_099_200),
        ("deeplab", 21, 3, True, 4_158_656),
        ("deeplab", 21, 3, False, 4_115_136),
        ("fcn", 6, 2, True, 13_604_068),
        ("fcn", 6, 2, False, 13_540_068),
        ("fcn", 21, 3, True, 13_637_719),
        ("fcn", 21, 3, False, 13_573_719),
    ],
)
def test_parameter_counts_are_those_of_the_authors(
    kind: Kind, classes: int, channels: int, spiking: bool, parameters: int
) -> None:
    network = PaperNetwork(PaperConfig(kind, classes, channels, spiking=spiking))
    assert sum(p.numel() for p in network.parameters()) == parameters


# Name, output shape at 64x64, input shape, and dense multiply-accumulates worked by hand.
DEEPLAB = [
    ("conv1", (64, 64, 64), (2, 64, 64), 64 * 64 * 64 * 2 * 9),
    ("conv2", (64, 64, 64), (64, 64, 64), 64 * 64 * 64 * 64 * 9),
    ("conv3", (128, 32, 32), (64, 32, 32), 32 * 32 * 128 * 64 * 9),
    ("conv4", (128, 32, 32), (128, 32, 32), 32 * 32 * 128 * 128 * 9),
    ("conv5", (256, 16, 16), (128, 16, 16), 16 * 16 * 256 * 128 * 9),
    ("conv6", (256, 16, 16), (256, 16, 16), 16 * 16 * 256 * 256 * 9),
    ("conv7", (256, 16, 16), (256, 16, 16), 16 * 16 * 256 * 256 * 9),
    ("atrous", (1024, 16, 16), (256, 16, 16), 16 * 16 * 1024 * 256 * 9),
    ("score", (6, 16, 16), (1024, 16, 16), 16 * 16 * 6 * 1024),
]
FCN = [
    *DEEPLAB[:2],
    ("skip1", (6, 64, 64), (64, 64, 64), 64 * 64 * 6 * 64),
    *DEEPLAB[2:4],
    ("skip2", (6, 32, 32), (128, 32, 32), 32 * 32 * 6 * 128),
    *DEEPLAB[4:7],
    ("skip4", (6, 16, 16), (256, 16, 16), 16 * 16 * 6 * 256),
    ("conv8", (1024, 8, 8), (256, 8, 8), 8 * 8 * 1024 * 256 * 9),
    ("conv9", (1024, 8, 8), (1024, 8, 8), 8 * 8 * 1024 * 1024 * 9),
    ("score", (6, 8, 8), (1024, 8, 8), 8 * 8 * 6 * 1024),
    ("up4", (6, 16, 16), (6, 8, 8), 8 * 8 * 6 * 6 * 9),
    ("up2", (6, 32, 32), (6, 16, 16), 16 * 16 * 6 * 6 * 9),
    ("up1", (6, 64, 64), (6, 32, 32), 32 * 32 * 6 * 6 * 9),
]


@pytest.mark.parametrize(("kind", "table"), [("deeplab", DEEPLAB), ("fcn", FCN)])
def test_layers_are_the_papers(kind: Kind, table: list[tuple[str, tuple[int, ...], tuple[int, ...], int]]) -> None:
    config = PaperConfig(kind)
    assert list(synapses(config)) == [name for name, *_ in table]
    assert layer_shapes(config, 64, 64) == {name: shape for name, shape, _, _ in table}
    assert input_shapes(config, 64, 64) == {name: shape for name, _, shape, _ in table}
    assert layer_macs(config, 64, 64) == {name: macs for name, _, _, macs in table}
    voc = PaperConfig(kind, classes=21, input_channels=3)
    assert layer_macs(voc, 64, 64)["conv1"] == 64 * 64 * 64 * 3 * 9
    assert layer_shapes(voc, 64, 64)[readout(kind)][0] == 21


def test_totals_are_those_that_are_known() -> None:
    assert sum(layer_macs(PaperConfig("deeplab"), 64, 64).values()) == 1_365_245_952
    assert sum(layer_macs(PaperConfig("fcn"), 64, 64).values()) == 1_518_249_216
    assert sum(layer_macs(PaperConfig("deeplab"), 200, 346).values()) == pytest.approx(23e9, rel=0.01)


def test_sources_and_geometry() -> None:
    reads = {name: source for name, ((source, _),) in sources(PaperConfig("fcn")).items()}
    assert (reads["conv1"], reads["skip1"], reads["conv3"]) == ("input", "conv2", "conv2")
    assert (reads["score"], reads["up4"], reads["up2"], reads["up1"]) == ("conv9", "score", "up4", "up2")
    table = synapses(PaperConfig("deeplab"))
    assert [table[name].dilation for name in ("conv5", "conv6", "conv7", "atrous")] == [1, 2, 2, 12]
    assert [name for name, s in table.items() if s.pooled] == ["conv3", "conv5"]
    assert [name for name, s in synapses(PaperConfig("fcn")).items() if s.pooled] == ["conv3", "conv5", "conv8"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spiking", [True, False])
@pytest.mark.parametrize("size", [(21, 34), (16, 16), (1, 7)])
def test_any_size_gives_layers_of_the_shapes_that_are_told(kind: Kind, spiking: bool, size: tuple[int, int]) -> None:
    config = PaperConfig(kind, steps=2, spiking=spiking)
    network = PaperNetwork(config).eval()
    steps = config.steps if spiking else 1
    with torch.no_grad():
        logits, spikes = network.forward_with_spikes(torch.randint(-1, 2, (steps, 3, 2, *size)).float())
    assert logits.shape == (3, 6, *size)
    shapes = layer_shapes(config, *size)
    assert tuple(spikes) == neuron_layers(config)
    for name, outputs in spikes.items():
        assert len(outputs) == steps
        assert all(out.shape == (3, *shapes[name]) for out in outputs)
        if spiking:
            assert all(((out == 0) | (out == 1)).all() for out in outputs)
            rate = torch.cat([out.flatten() for out in outputs]).mean()
            torch.testing.assert_close(firing_rates(spikes)[name], rate)


def test_the_network_starts_as_the_authors_do() -> None:
    network = PaperNetwork(PaperConfig("fcn"))
    weight = network.convs["conv4"].weight.detach()
    bound = 2 * math.sqrt(6 / (128 * 9 + 128 * 9))
    assert float(weight.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(weight.abs().max()) <= bound
    assert [name for name, conv in network.convs.items() if conv.bias is not None] == [
        "skip1",
        "skip2",
        "skip4",
        "score",
    ]
    assert all(float(conv.bias.detach().abs().max()) == 0 for conv in network.convs.values() if conv.bias is not None)
    assert all(norm.bias is None and norm.eps == 1e-4 for norms in network.norms.values() for norm in norms.steps)
    assert set(network.norms) == set(network.nodes) - {"up4", "up2"}


# Surrogate derivatives at u / θ − 1, by hand.
@pytest.mark.parametrize(
    ("surrogate", "u", "threshold", "slope"),
    [
        ("linear", 1.0, 1.0, 0.3),
        ("linear", 0.5, 1.0, 0.15),
        ("linear", 1.75, 1.0, 0.075),
        ("linear", -0.5, 1.0, 0.0),
        ("linear", 1.0, 2.0, 0.15 / 2),
        ("fast-sigmoid", 1.0, 1.0, 1.0),
        ("fast-sigmoid", 1.01, 1.0, 0.25),
        ("fast-sigmoid", 0.97, 1.0, 1 / 16),
        ("exponential", 1.0, 1.0, 1.0),
        ("exponential", 1.1, 1.0, math.exp(-1)),
        ("exponential", 0.8, 1.0, math.exp(-2)),
        ("exponential", 2.4, 2.0, math.exp(-2) / 2),
    ],
)
def test_surrogates(surrogate: str, u: float, threshold: float, slope: float) -> None:
    network = PaperNetwork(PaperConfig(surrogate=surrogate, threshold=threshold)).double()  # type: ignore[arg-type]
    current = torch.tensor([u], dtype=torch.float64, requires_grad=True)
    spikes = network.nodes["conv1"](current)
    assert spikes.item() == float(u > threshold)
    spikes.sum().backward()
    assert current.grad is not None
    assert current.grad.item() == pytest.approx(slope, abs=1e-9)


def test_a_neuron_leaks_resets_by_subtraction_and_the_reset_passes_no_gradient() -> None:
    node = PaperNetwork(PaperConfig(keep=0.9, threshold=1.0)).double().nodes["conv1"]
    first = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    assert node(first).item() == 1
    assert node.v.item() == pytest.approx(0.5)
    node(torch.tensor([0.2], dtype=torch.float64))
    # 0.9 (1.5 − 1) + 0.2: below the threshold, so it stays.
    assert node.v.item() == pytest.approx(0.65)
    node.v.sum().backward()
    assert first.grad is not None
    assert first.grad.item() == pytest.approx(0.9)


@pytest.mark.parametrize(
    "fields",
    [{"kind": "unet"}, {"surrogate": "box"}, {"steps": 0}, {"keep": 1.0}, {"threshold": 0.0}, {"classes": 0}],
)
def test_a_network_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        PaperConfig(**fields)  # type: ignore[arg-type]


def test_a_wrong_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 2 input steps, got 3"):
        PaperNetwork(PaperConfig(steps=2))(torch.zeros(3, 1, 2, 8, 8))


@lru_cache
def loud_network(kind: Kind, spiking: bool = True) -> PaperNetwork:
    """A network whose every layer fires within three steps, each step with a batch norm of its own; float64."""
    torch.manual_seed(1)
    network = PaperNetwork(PaperConfig(kind, steps=3, spiking=spiking, keep=0.95)).double().eval()
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if name.startswith("norms") and value.dtype == torch.float64:
            low, high = (-0.3, 0.3) if name.endswith("mean") else (1, 4)
            torch.nn.init.uniform_(value, low, high)
        elif name.endswith("bias"):
            torch.nn.init.uniform_(value, -0.5, 0.5)
    return network


@lru_cache
def loud_runtime(kind: Kind, spiking: bool = True) -> PaperRuntime:
    """The same network over an explicit state."""
    network = loud_network(kind, spiking)
    return PaperRuntime(network.config, fold_bntt(network), dtype=torch.float64)


# In float64 no potential comes so near to the threshold that the order of a sum decides on a spike.
@settings(max_examples=15, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 14), st.integers(1, 14), st.integers(1, 2), st.integers(0, 2**31))
def test_explicit_state_equals_spikingjelly(kind: Kind, height: int, width: int, batch: int, seed: int) -> None:
    network = loud_network(kind)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-1, 2, (3, batch, 2, height, width), generator=generator).double()
    functional.reset_net(network)
    with torch.no_grad():
        expected, spikes = network.forward_with_spikes(x)

    runtime = loud_runtime(kind)
    state = runtime.initial_state(batch, height, width)
    for k in range(3):
        before = {name: v.clone() for name, v in state.items()}
        result = runtime.step(state, x[k], k)
        assert all(torch.equal(v, before[name]) for name, v in state.items())
        for name, outputs in spikes.items():
            assert torch.equal(result.spike_counts[name], outputs[k].sum(dim=(1, 2, 3)).long())
        state = result.state
    torch.testing.assert_close(runtime.logits(state, height, width), expected)
    for name, node in network.nodes.items():
        torch.testing.assert_close(state[name], node.v)
    run = runtime.run(x)
    assert run.state.equals(state)
    for name, outputs in spikes.items():
        assert torch.equal(run.spike_counts[name], torch.stack(outputs).sum(dim=(0, 2, 3, 4)).long())


def test_the_comparison_is_one_of_networks_that_fire() -> None:
    for kind in KINDS:
        network = loud_network(kind)
        functional.reset_net(network)
        with torch.no_grad():
            logits, spikes = network.forward_with_spikes(torch.randint(-1, 2, (3, 1, 2, 20, 26)).double())
        assert all(0.02 < float(rate) < 0.98 for rate in firing_rates(spikes).values())
        assert float(logits.abs().max()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_ann_twin_runs_in_one_pass(kind: Kind) -> None:
    network = loud_network(kind, spiking=False)
    x = torch.randn(1, 2, 2, 17, 10, dtype=torch.float64)
    with torch.no_grad():
        expected = network(x)
    runtime = loud_runtime(kind, spiking=False)
    run = runtime.run(x)
    torch.testing.assert_close(runtime.logits(run.state, 17, 10), expected)
    activity = runtime.activity(run, 0, 17, 10, analog_input=True)
    total = sum(layer_macs(network.config, 17, 10).values())
    assert (activity.macs_ann, activity.macs_analog, activity.sops, activity.firing_rate) == (total, total, 0, 0)
    assert activity.energy_snn_j == activity.energy_ann_j
    assert all(layer.neurons == layer.spikes == 0 for layer in activity.layers)


@pytest.mark.parametrize("kind", KINDS)
def test_activity_counts_what_the_spikes_cause(kind: Kind) -> None:
    network = loud_network(kind)
    config = network.config
    x = torch.randint(-1, 2, (3, 1, 2, 12, 20)).double()
    functional.reset_net(network)
    seen: dict[str, float] = {}
    for name, conv in network.convs.items():
        conv.register_forward_pre_hook(
            lambda _, args, name=name: seen.update(
                {name: seen.get(name, 0.0) + int(torch.count_nonzero(args[0])) / args[0].numel()}
            )
        )
    with torch.no_grad():
        _, spikes = network.forward_with_spikes(x)
    for conv in network.convs.values():
        conv._forward_pre_hooks.clear()

    runtime = loud_runtime(kind)
    run = runtime.run(x)
    macs = layer_macs(config, 12, 20)
    shapes = layer_shapes(config, 12, 20)
    coded = runtime.activity(run, 0, 12, 20, analog_input=False)
    assert [layer.name for layer in coded.layers] == list(macs)
    for layer in coded.layers:
        assert layer.sops == pytest.approx(seen[layer.name] * macs[layer.name])
        assert layer.steps == 3
        if layer.name in spikes:
            assert layer.neurons == math.prod(shapes[layer.name])
            assert layer.firing_rate == pytest.approx(float(firing_rates(spikes)[layer.name]))
        else:
            assert (layer.neurons, layer.firing_rate) == (0, 0)
    pooled = {"conv3", "conv5"} if kind == "deeplab" else {"conv3", "conv5", "conv8", "up4"}
    assert {coded.layers[k].name for k in coded.analog} == pooled
    assert coded.macs_analog == pytest.approx(sum(seen[name] * macs[name] for name in pooled))
    accumulates = sum(seen[name] * macs[name] for name in macs if name not in pooled)
    assert coded.energy_snn_j == pytest.approx(4.6e-12 * coded.macs_analog + 0.9e-12 * accumulates)
    assert coded.macs_ann == sum(macs.values())

    direct = runtime.activity(run, 0, 12, 20, analog_input=True)
    assert direct.macs_analog == pytest.approx(coded.macs_analog + 3 * macs["conv1"])
    assert direct.sops == coded.sops


def test_the_network_is_tied_to_its_number_of_steps() -> None:
    network = PaperNetwork(PaperConfig(steps=2))
    runtime = PaperRuntime(network.config, fold_bntt(network))
    state = runtime.initial_state(1, 8, 8)
    with pytest.raises(StateError, match="start from rest again"):
        runtime.step(state, torch.zeros(1, 2, 8, 8), 2)
    with pytest.raises(StateError, match="takes 2 input steps, got 1"):
        runtime.run(torch.zeros(1, 1, 2, 8, 8))
    with pytest.raises(StateError, match="layer conv1 has shape"):
        runtime.step(state, torch.zeros(1, 2, 8, 9), 0)


def test_weights_that_do_not_fit_are_named() -> None:
    network = PaperNetwork(PaperConfig(steps=2))
    weights = fold_bntt(network)
    assert {name: tuple(w.shape) for name, w in weights.items()} == weight_shapes(network.config)
    with pytest.raises(WeightsError, match=r"conv3\.scale missing or unknown"):
        PaperRuntime(network.config, {name: w for name, w in weights.items() if name != "conv3.scale"})
    with pytest.raises(WeightsError, match=r"conv3\.scale has shape \(2, 128\), expected \(3, 128\)|conv1\.scale"):
        PaperRuntime(PaperConfig(steps=3), weights)
    with pytest.raises(WeightsError, match="not finite"):
        PaperRuntime(network.config, {**weights, "score.weight": weights["score.weight"] * float("nan")})


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 13), st.integers(0, 1000))
def test_leaving_out_padding_changes_no_convolution(height: int, width: int, dilation: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    ours = dilated_convolution(x, weight, dilation)
    dense = torch.nn.functional.conv2d(x, weight, padding=dilation, dilation=dilation)
    torch.testing.assert_close(ours, dense)
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), (x, weight)),
        torch.autograd.grad(dense.square().sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_atrous_layer_is_mostly_padding_at_64_pixels_and_not_at_a_sensors_size() -> None:
    assert mostly_padding(16, 16, 12)
    assert not mostly_padding(65, 87, 12)
    assert not mostly_padding(16, 16, 2)
