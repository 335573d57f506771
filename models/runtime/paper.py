"""The paper's protocol: T steps from rest for each answer, as pure functions of an explicit state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.architectures.paper import (
    INPUT,
    SCORE,
    Apply,
    PaperConfig,
    Synapse,
    dilated_convolution,
    forward_graph,
    input_shapes,
    layer_macs,
    layer_shapes,
    mostly_padding,
    neuron_layers,
    normed_layers,
    readout,
    resize,
    synapses,
)
from models.errors import StateError
from models.runtime.activity import LayerActivity, SpikeActivity
from models.runtime.model import Backend
from models.runtime.state import State, check_state
from models.runtime.weights import check_weights


@dataclass(frozen=True, slots=True)
class ProtocolStep:
    """What one of the T steps gives, or all of them together.

    Attributes
    ----------
    state : State
        Membranes after the step.
    spike_counts : mapping of int64 Tensor, (B,)
        Spikes of each layer that fires; empty in an ANN twin.
    active_inputs : mapping of int64 Tensor, (B,)
        For each convolution, how many of the values that it read were not zero.
    """

    state: State
    spike_counts: Mapping[str, Tensor]
    active_inputs: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What depends on nothing but the network and the size of its input; neurons of the layers that fire."""

    membranes: Mapping[str, tuple[int, int, int]]
    neurons: Mapping[str, int]
    inputs: Mapping[str, int]
    macs: Mapping[str, int]


@lru_cache(maxsize=64)
def _geometry(config: PaperConfig, height: int, width: int) -> _Geometry:
    shapes = layer_shapes(config, height, width)
    firing = neuron_layers(config) if config.spiking else ()
    return _Geometry(
        {name: shapes[name] for name in (*firing, readout(config.kind))},
        {name: c * h * w for name, (c, h, w) in shapes.items() if name in firing},
        {name: c * h * w for name, (c, h, w) in input_shapes(config, height, width).items()},
        layer_macs(config, height, width),
    )


def weight_shapes(config: PaperConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that ``models.architectures.paper.fold_bntt`` gives for such a network."""
    expected: dict[str, tuple[int, ...]] = {}
    table = synapses(config)
    for name, s in table.items():
        expected[f"{name}.weight"] = s.weight_shape
        if s.bias:
            expected[f"{name}.bias"] = (s.cout,)
    if config.spiking:
        for name in normed_layers(config):
            expected[f"{name}.scale"] = expected[f"{name}.shift"] = (config.steps, table[name].cout)
    return expected


SpikingLayer = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""A layer as a whole: ``(input spikes, membranes, time step) -> (spikes, membranes, how many of each row fired)``."""


class PaperRuntime:
    """A paper network with folded weights. It holds no membranes and is safe to share between threads.

    Parameters
    ----------
    config : PaperConfig
    weights : mapping of Tensor
        As ``models.architectures.paper.fold_bntt`` gives them.
    dtype : torch.dtype
        What it computes in: float64 is for comparing it with other implementations spike for spike.

    Raises
    ------
    WeightsError
        If a weight is missing, of another shape, or not finite.

    Attributes
    ----------
    backend : str
        What computes it.
    """

    backend: ClassVar[Backend] = "torch"

    def __init__(
        self, config: PaperConfig, weights: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32
    ) -> None:
        self.config = config
        self._dtype = dtype
        self._synapses = synapses(config)
        self._normed = normed_layers(config) if config.spiking else ()
        self._weights: dict[str, Tensor] = {}
        expected = weight_shapes(config)
        check_weights(weights, expected)
        for name in expected:
            tensor = weights[name].detach().to(dtype)
            if name.endswith(".weight"):
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            elif not name.endswith(".bias"):
                tensor = tensor[:, :, None, None]
            self._weights[name] = tensor
        # What a subclass computes by itself, from spikes to spikes.
        self._layers: Mapping[str, SpikingLayer] = {}

    @property
    def steps(self) -> int:
        """Steps for one answer: T, or 1 in an ANN twin."""
        return self.config.steps if self.config.spiking else 1

    def initial_state(self, batch: int, height: int, width: int) -> State:
        """Membranes at rest and an empty readout, for an input of height x width."""
        return State(
            {
                name: torch.zeros(batch, *shape, dtype=self._dtype).contiguous(memory_format=torch.channels_last)
                for name, shape in _geometry(self.config, height, width).membranes.items()
            }
        )

    @torch.inference_mode()
    def step(self, state: State, x: Tensor, step: int) -> ProtocolStep:
        """Advance time step ``step`` of 0 … T − 1 with input (B, C, H, W).

        Raises
        ------
        StateError
            If ``step`` is beyond T (the network has no batch norm for it), or the state is of another network, batch or
            size of input.
        """
        if not 0 <= step < self.steps:
            raise StateError(f"time step {step} is outside 0 … {self.steps - 1}: start from rest again")
        batch, _, height, width = x.shape
        shapes = _geometry(self.config, height, width).membranes
        check_state(state, {name: (batch, *shape) for name, shape in shapes.items()}, self._dtype)
        membranes: dict[str, Tensor] = {}
        spikes_of: dict[str, Tensor] = {}
        active: dict[str, Tensor] = {}

        def synapse(name: str, spikes: Tensor) -> Tensor:
            s = self._synapses[name]
            if self.config.spiking:
                same = s.reads in spikes_of and not s.pooled
                active[name] = spikes_of[s.reads] if same else torch.count_nonzero(spikes, dim=(1, 2, 3))
            if name in self._layers:
                return spikes
            current = self._convolve(name, s, spikes)
            if name in self._normed:
                current.mul_(self._weights[f"{name}.scale"][step]).add_(self._weights[f"{name}.shift"][step])
            return current

        def fire(name: str, current: Tensor) -> Tensor:
            if not self.config.spiking:
                return current.relu_() if name in normed else current
            if name in self._layers:
                spikes, membranes[name], spikes_of[name] = self._layers[name](current, state[name], step)
                return spikes
            h = current.add_(state[name], alpha=self.config.keep)
            spikes = torch.gt(h, self.config.threshold, out=torch.empty_like(h))
            membranes[name] = h.sub_(spikes, alpha=self.config.threshold)
            # Sums of 0.0 and 1.0 over one row stay exact in float32 up to 2^24 neurons of a layer.
            spikes_of[name] = spikes.sum(dim=(1, 2, 3)).to(torch.int64)
            return spikes

        normed = normed_layers(self.config)
        x = x.to(self._dtype).contiguous(memory_format=torch.channels_last)
        current = forward_graph(self.config, x, synapse, fire)
        last = readout(self.config.kind)
        membranes[last] = state[last] + current
        return ProtocolStep(State(membranes), spikes_of, active)

    def run_graph(self, x: Tensor, fire: Apply) -> Tensor:
        """Input current of an ANN twin's readout, with ``fire(name, current)`` in place of its own units."""
        x = x.to(self._dtype).contiguous(memory_format=torch.channels_last)
        return forward_graph(self.config, x, lambda name, s: self._convolve(name, self._synapses[name], s), fire)

    def _convolve(self, name: str, s: Synapse, x: Tensor) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
        if s.transposed:
            return F.conv_transpose2d(x, weight, bias, stride=2)
        if s.dilation > 1 and mostly_padding(x.shape[-2], x.shape[-1], s.dilation):
            return dilated_convolution(x, weight, s.dilation)
        return F.conv2d(x, weight, bias, padding=s.padding, dilation=s.dilation)

    def run(self, x_seq: Tensor) -> ProtocolStep:
        """All steps from rest, (T, B, C, H, W): the last state, and the counts of all steps added up.

        Raises
        ------
        StateError
            If there are not T steps.
        """
        if len(x_seq) != self.steps:
            raise StateError(f"the network takes {self.steps} input steps, got {len(x_seq)}")
        state = self.initial_state(x_seq.shape[1], x_seq.shape[3], x_seq.shape[4])
        results = []
        for k, x in enumerate(x_seq):
            results.append(self.step(state, x, k))
            state = results[-1].state
        return ProtocolStep(state, _sums([r.spike_counts for r in results]), _sums([r.active_inputs for r in results]))

    @torch.inference_mode()
    def logits(self, state: State, height: int, width: int) -> Tensor:
        """Logits (B, classes, height, width) after all T steps, bilinear between the corners of the readout."""
        return resize(state[readout(self.config.kind)] / self.steps, (height, width))

    def activity(self, run: ProtocolStep, row: int, height: int, width: int, *, analog_input: bool) -> SpikeActivity:
        """What one row's counts of a whole run mean: firing rates and synaptic operations by layer.

        A convolution whose input is not spikes multiplies: those that read averages of spikes or the FCN's scores,
        which are counted where that input is not zero, and the first one unless its input is coded in spikes, which is
        counted dense. An ANN twin has no spikes: all of its operations are dense multiply-accumulates.

        Parameters
        ----------
        run : ProtocolStep
            As ``run`` gives it.
        row : int
        height, width : int
            Of the input.
        analog_input : bool
            Whether the input holds other values than −1, 0 and 1.
        """
        geometry = _geometry(self.config, height, width)
        macs_ann = float(sum(geometry.macs.values()))
        if not self.config.spiking:
            return SpikeActivity(tuple(LayerActivity(name, 0, 0, 0.0) for name in geometry.macs), macs_ann, macs_ann)
        layers: list[LayerActivity] = []
        analog: list[int] = []
        multiplies = 0.0
        for index, (name, s) in enumerate(self._synapses.items()):
            dense = float(geometry.macs[name])
            sops = dense * int(run.active_inputs[name][row]) / geometry.inputs[name]
            dense_input = s.reads == INPUT and analog_input
            if dense_input or s.pooled or s.reads == SCORE:
                analog.append(index)
                multiplies += dense * self.steps if dense_input else sops
            spikes = int(run.spike_counts[name][row]) if name in geometry.neurons else 0
            layers.append(LayerActivity(name, geometry.neurons.get(name, 0), spikes, sops, self.steps))
        return SpikeActivity(tuple(layers), macs_ann, multiplies, tuple(analog))


def _sums(counts: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([step[name] for step in counts]).sum(0) for name in counts[0]}
