"""The paper's networks on the event-driven kernel against the reference on torch."""

from __future__ import annotations

import shutil
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import zoo
from models.architectures.paper import PaperConfig, synapses
from models.errors import BackendUnavailableError, WeightsError
from models.events import SensorSize
from models.runtime.event_driven import EventDrivenPaperRuntime, SpikingLayerKernel, kernel, spiking_layers
from models.runtime.exactness import computing_threads
from models.runtime.paper import PaperRuntime, weight_shapes
from models.runtime.precision import rounded
from models.runtime.protocol import FrameModel, ProtocolModel
from tests.models.test_batches import events

if not any(map(shutil.which, ("cc", "gcc", "clang"))):
    pytest.skip("there is no C compiler to build the event-driven kernel with", allow_module_level=True)

STEPS = 3


def config_of(threshold: float = 1.0) -> PaperConfig:
    return PaperConfig("deeplab", steps=STEPS, threshold=threshold)


@lru_cache
def weights_of(layer: str) -> dict[str, Tensor]:
    """Int8 weights and batch norms of one layer; each channel has signs, scales and shifts of its own."""
    generator = torch.Generator().manual_seed(0)
    s = synapses(config_of())[layer]
    weight = torch.randn(s.weight_shape, generator=generator) / (s.cin * 9) ** 0.5
    scale = 0.5 + 2 * torch.rand((STEPS, s.cout), generator=generator)
    shift = torch.randn((STEPS, s.cout), generator=generator) / 2
    found = {f"{layer}.weight": weight, f"{layer}.scale": scale, f"{layer}.shift": shift}
    return rounded(found, "int8")


def potentials(layer: str, config: PaperConfig, spikes: Tensor, v: Tensor, step: int) -> Tensor:
    """What the layer's neurons reach before they fire, from the equations alone, in float64."""
    s, weights = synapses(config)[layer], weights_of(layer)
    norm = [weights[f"{layer}.{kind}"][step].double()[:, None, None] for kind in ("scale", "shift")]
    convolved = torch.nn.functional.conv2d(
        spikes.double(), weights[f"{layer}.weight"].double(), padding=s.padding, dilation=s.dilation
    )
    return config.keep * v.double() + convolved * norm[0] + norm[1]


@settings(max_examples=40, deadline=None)
@given(
    layer=st.sampled_from(["conv2", "conv4", "conv6", "atrous"]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    batch=st.integers(1, 3),
    density=st.sampled_from([0.0, 0.05, 0.25, 1.0]),
    step=st.integers(0, STEPS - 1),
    threshold=st.sampled_from([0.5, 1.0, 1.7]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_a_layer_fires_as_the_equations_say(
    layer: str,
    height: int,
    width: int,
    batch: int,
    density: float,
    step: int,
    threshold: float,
    threads: int,
    seed: int,
) -> None:
    config = config_of(threshold)
    s = synapses(config)[layer]
    generator = torch.Generator().manual_seed(seed)
    spikes = (torch.rand((batch, s.cin, height, width), generator=generator) < density).float()
    v = torch.randn((batch, s.cout, height, width), generator=generator)
    given_v = v.clone()
    with computing_threads(threads):
        fired, after, counts = SpikingLayerKernel(kernel(), config, layer, weights_of(layer))(spikes, v, step)
    h = potentials(layer, config, spikes, v, step)
    assert counts.tolist() == fired.sum(dim=(1, 2, 3)).long().tolist()
    assert set(fired.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close((after + threshold * fired).double(), h, atol=1e-5, rtol=1e-5)
    clear = (h - threshold).abs() > 1e-5
    assert torch.equal(fired[clear] > 0, h[clear] > threshold)
    assert torch.equal(v, given_v)


def test_a_neuron_fires_above_its_threshold_and_not_at_it() -> None:
    config = config_of(threshold=0.7)
    weights = {key: torch.zeros_like(value) for key, value in weights_of("conv2").items()}
    weights["conv2.shift"] = torch.full_like(weights["conv2.shift"], 0.7)
    above = np.nextafter(np.float32(0.7), np.float32(1))
    weights["conv2.shift"][:, ::2] = float(above)
    layer = SpikingLayerKernel(kernel(), config, "conv2", weights)
    fired, after, _ = layer(torch.ones(1, 64, 3, 3), torch.zeros(1, 64, 3, 3), 0)
    assert fired[0, ::2].all()
    assert not fired[0, 1::2].any()
    assert torch.equal(after[0, 1::2], torch.full_like(after[0, 1::2], 0.7))


def test_no_bit_of_a_layer_hangs_on_batch_and_threads() -> None:
    generator = torch.Generator().manual_seed(3)
    spikes = (torch.rand((3, 128, 9, 14), generator=generator) < 0.25).float()
    v = torch.randn((3, 128, 9, 14), generator=generator)
    layer = SpikingLayerKernel(kernel(), config_of(), "conv4", weights_of("conv4"))
    with computing_threads(1):
        alone = [layer(spikes[row : row + 1], v[row : row + 1], 1) for row in range(3)]
    with computing_threads(3):
        together = layer(spikes, v, 1)
    for k in range(3):
        assert torch.equal(together[k], torch.cat([each[k] for each in alone]))


def random_network(config: PaperConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in weight_shapes(config).items():
        kind = name.rpartition(".")[2]
        value = torch.randn(shape, generator=generator)
        weights[name] = value / 30 if kind == "weight" else 1 + value.abs() if kind == "scale" else value / 3
    # Rounding goes by the first axis; that of a transposed convolution is left as it is.
    fired = {f"{name}.weight" for name in spiking_layers(config)}
    return {name: rounded({name: w}, "int8")[name] if name in fired else w for name, w in weights.items()}


@pytest.mark.parametrize("kind", ["deeplab", "fcn"])
def test_a_step_is_the_one_of_the_reference_but_for_neurons_at_the_threshold(kind: str) -> None:
    config = PaperConfig(kind, steps=2)  # type: ignore[arg-type]
    weights = random_network(config)
    reference, tested = PaperRuntime(config, weights), EventDrivenPaperRuntime(config, weights)
    x = torch.randn((2, 2, 2, 20, 26), generator=torch.Generator().manual_seed(1))
    state = reference.initial_state(2, 20, 26)
    for step in range(2):
        expected, found = reference.step(state, x[step], step), tested.step(state, x[step], step)
        assert set(found.spike_counts) == set(expected.spike_counts)
        for name, count in expected.spike_counts.items():
            torch.testing.assert_close(found.spike_counts[name], count, rtol=2e-3, atol=3)
        for name, v in expected.state.items():
            assert float(((found.state[name] - v).abs() < 1e-4).float().mean()) > 0.995, name
        for name, count in expected.active_inputs.items():
            torch.testing.assert_close(found.active_inputs[name], count, rtol=5e-3, atol=3)
        state = expected.state


def test_the_zoo_computes_them_where_they_spike() -> None:
    auto = zoo.load("paper-deeplab", expect=ProtocolModel)
    assert auto.backend == zoo.describe("paper-deeplab").backend == "event-driven"
    assert zoo.load("paper-deeplab", expect=ProtocolModel, backend="torch").backend == "torch"
    assert zoo.load("paper-deeplab-voc", expect=FrameModel).backend == "event-driven"
    assert zoo.load("paper-deeplab-ann", expect=ProtocolModel, backend="event-driven").backend == "torch"
    assert zoo.describe("paper-deeplab-ann").backend == "torch"


def test_an_answer_is_nearly_the_one_of_torch() -> None:
    sensor = SensorSize(90, 70)
    models = [zoo.load("paper-deeplab", expect=ProtocolModel, backend=b) for b in ("torch", "event-driven")]
    answers = [m.segment(m.initial_state(sensor), events(5, sensor, 0.5), sensor) for m in models]
    assert float((answers[0].mask == answers[1].mask).mean()) > 0.98
    for ours, theirs in zip(answers[1].activity.layers, answers[0].activity.layers, strict=True):
        assert ours.spikes == pytest.approx(theirs.spikes, rel=1e-3, abs=3)
    assert answers[1].state.equals(answers[0].state)


def test_a_twin_and_weights_that_int8_does_not_hold_are_refused() -> None:
    config = PaperConfig("deeplab", spiking=False)
    weights = {name: torch.zeros(shape) for name, shape in weight_shapes(config).items()}
    with pytest.raises(BackendUnavailableError, match="spiking networks only"):
        EventDrivenPaperRuntime(config, weights)
    with pytest.raises(WeightsError, match=r"conv2\.weight is not one of int8"):
        SpikingLayerKernel(
            kernel(), config_of(), "conv2", weights_of("conv2") | {"conv2.weight": torch.randn(64, 64, 3, 3)}
        )
