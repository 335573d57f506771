"""The streaming network as a pure step: ``step(state, x) -> (logits, state', spike counts)``, on PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.architectures.edge import (
    READOUT,
    Apply,
    EdgeConfig,
    class_mask,
    forward_graph,
    layer_macs,
    layer_shapes,
    sources,
    synapses,
)
from models.encoding import InputGrid, polarity_counts
from models.errors import StateError
from models.events import EventBatch
from models.runtime.activity import LayerActivity, SpikeActivity
from models.runtime.lif import leaky_readout_step, lif_step
from models.runtime.model import Backend
from models.runtime.precision import Precision, rounded
from models.runtime.state import State, check_state, check_windows, gather, scatter
from models.runtime.weights import check_weights

HISTORY = "history"
"""The state of an ANN twin: the windows before the present one, oldest first."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step gives.

    Attributes
    ----------
    logits : Tensor, (B, classes, ceil(H / s), ceil(W / s)), s = config.output_stride
    state : State
    spike_counts : mapping of int64 Tensor, (B,)
        Spikes of each layer and row, and under ``input`` the input cells that are not zero. Empty for an ANN twin.
    """

    logits: Tensor
    state: State
    spike_counts: Mapping[str, Tensor]

    def counts_of(self, row: int) -> dict[str, int]:
        """Spike counts of one row."""
        return {name: int(count[row]) for name, count in self.spike_counts.items()}


@dataclass(frozen=True, slots=True)
class RowResult:
    """What one step gives a single stream: as ``StepResult``, with plain numbers for the spike counts."""

    logits: Tensor
    state: State
    spike_counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What depends on nothing but the network and its input grid; ``neurons`` has the input's cells too."""

    shapes: Mapping[str, tuple[int, int, int]]
    macs: Mapping[str, int]
    neurons: Mapping[str, int]
    sources: Mapping[str, tuple[tuple[str, int], ...]]


# Every window needs it; clients choose the grids, so that what is kept is bounded.
@lru_cache(maxsize=64)
def _geometry(config: EdgeConfig, height: int, width: int) -> _Geometry:
    shapes = layer_shapes(config, height, width)
    neurons = {name: c * h * w for name, (c, h, w) in shapes.items()}
    neurons["input"] = config.input_channels * height * width
    return _Geometry(shapes, layer_macs(config, height, width), neurons, sources(config))


class EdgeRuntime:
    """A streaming Spiking-DeepLab with folded weights. It holds no membranes and is safe to share between threads.

    The ANN twin runs through it too: the state is then the windows before the present one, which it sees with it.

    Parameters
    ----------
    config : EdgeConfig
    weights : mapping of Tensor
        As ``models.architectures.edge.fold_batch_norm`` gives them.
    precision : "float32", "bfloat16" or "int8"
        What the weights are rounded to (``models.runtime.precision``). They are float32 here all the same.

    Raises
    ------
    WeightsError
        If a weight is missing, of another shape, or not finite.

    Attributes
    ----------
    precision : "float32", "bfloat16" or "int8"
        What its weights are rounded to.
    backend : str
        What computes it.
    fixed_order : bool
        Whether sums are taken in the same order in any batch and on any number of threads, so that no bit hangs on
        them.
    """

    backend: ClassVar[Backend] = "torch"
    fixed_order: ClassVar[bool] = False

    def __init__(self, config: EdgeConfig, weights: Mapping[str, Tensor], precision: Precision = "float32") -> None:
        self.config = config
        self.precision: Precision = precision
        self._synapses = synapses(config)
        self._weights: dict[str, Tensor] = {}
        expected: dict[str, tuple[int, ...]] = {}
        for name, s in self._synapses.items():
            expected[f"{name}.weight"] = (s.cout, s.cin, s.kernel, s.kernel)
            expected[f"{name}.bias"] = (s.cout,)
            if config.spiking:
                expected[f"{name}.keep"] = (s.cout,)
        check_weights(weights, expected)
        weights = rounded(weights, precision)
        for name in expected:
            tensor = weights[name].detach().to(torch.float32)
            if name.endswith(".weight"):
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            elif name.endswith(".keep"):
                tensor = tensor.reshape(-1, 1, 1)
            self._weights[name] = tensor

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The folded weights, rounded, to be read; each ``NAME.keep`` as (cout, 1, 1)."""
        return MappingProxyType(self._weights)

    def initial_state(self, batch: int, height: int, width: int) -> State:
        """Membranes at rest, for an input grid of height x width cells."""
        return State(
            {
                name: torch.zeros(batch, *shape).contiguous(memory_format=torch.channels_last)
                for name, shape in self._state_shapes(height, width).items()
            }
        )

    def _state_shapes(self, height: int, width: int) -> Mapping[str, tuple[int, int, int]]:
        if self.config.spiking:
            return _geometry(self.config, height, width).shapes
        return {HISTORY: (self.config.input_channels - 2, height, width)}

    def check(self, state: State, batch: int, height: int, width: int) -> None:
        """Raise StateError unless the state is of this network, for so many rows and an input grid of that size."""
        check_state(state, {name: (batch, *shape) for name, shape in self._state_shapes(height, width).items()})

    @torch.inference_mode()
    def leak(self, state: State, windows: int) -> State:
        """The state after so many windows in which the network is not stepped.

        Each membrane is multiplied by ``keep ** windows``: no bias acts and nothing fires, also where a membrane is
        above the threshold. So this is not what as many steps with empty windows give, in which biases do act: a sensor
        that is silent is not looked at. The history of an ANN twin moves on by empty windows, as steps would move it.

        Raises
        ------
        StateError
            If the state is not one of this network.
        ValueError
            If ``windows`` is negative.
        """
        check_windows(windows)
        channels = {name: s.cout for name, s in self._synapses.items()}
        if not self.config.spiking:
            channels = {HISTORY: self.config.input_channels - 2}
        if set(state) != set(channels) or any(v.ndim != 4 or v.shape[1] != channels[n] for n, v in state.items()):
            raise StateError(f"the state is not one of this network: {state}")
        if windows == 0:
            return state
        if not self.config.spiking:
            history = state[HISTORY]
            forgotten = min(2 * windows, history.shape[1])
            return State({HISTORY: torch.cat([history[:, forgotten:], torch.zeros_like(history[:, :forgotten])], 1)})
        return State({name: v * self._kept(name, windows) for name, v in state.items()})

    def _kept(self, name: str, windows: int) -> Tensor:
        # In float64, so that the error does not grow with the number of windows.
        return self._weights[f"{name}.keep"].to(torch.float64).pow(windows).to(torch.float32)

    @torch.inference_mode()
    def step(self, state: State, x: Tensor) -> StepResult:
        """Advance one window.

        Parameters
        ----------
        state : State
        x : float32 Tensor, (B, 2, H, W)
            Polarity counts.

        Raises
        ------
        StateError
            If the state is of another network, batch or grid.
        """
        batch, _, height, width = x.shape
        self.check(state, batch, height, width)
        if not self.config.spiking:
            return self._step_twin(state, x)
        membranes: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {"input": torch.count_nonzero(x, dim=(1, 2, 3))}

        def neurons(name: str, current: Tensor) -> Tensor:
            keep = self._weights[f"{name}.keep"]
            if name == READOUT:
                membranes[name] = leaky_readout_step(current, state[name], keep)
                return membranes[name]
            spikes, membranes[name] = lif_step(current, state[name], keep)
            # Sums of 0.0 and 1.0 over one row stay exact in float32 up to 2^24 neurons of a layer.
            counts[name] = spikes.sum(dim=(1, 2, 3)).to(torch.int64)
            return spikes

        logits = self.run_graph(x, neurons)
        return StepResult(logits, State(membranes), counts)

    def run_graph(self, x: Tensor, neurons: Apply) -> Tensor:
        """Logits of an input (B, channels, H, W), with ``neurons(name, current)`` in place of the network's own."""
        return forward_graph(self.config, x.contiguous(memory_format=torch.channels_last), self._synapse, neurons)

    def _synapse(self, name: str, spikes: Tensor) -> Tensor:
        s = self._synapses[name]
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return F.conv2d(spikes, weight, bias, s.stride, s.padding, s.dilation)

    def _step_twin(self, state: State, x: Tensor) -> StepResult:
        seen = torch.cat([state[HISTORY], x], dim=1)

        def units(name: str, current: Tensor) -> Tensor:
            return current if name == READOUT else current.relu_()

        logits = self.run_graph(seen, units)
        return StepResult(logits, State({HISTORY: seen[:, 2:]}), {})

    @torch.inference_mode()
    def answer(self, rows: Sequence[tuple[State, EventBatch, InputGrid]]) -> list[RowResult]:
        """Advance a window of each of several streams, in one step; the states given are left as they are.

        Parameters
        ----------
        rows : sequence of (State, EventBatch, InputGrid)
            At least one. Their grids have the same cells, and each state has been found to be one of them.

        Raises
        ------
        EncodingError
            If an event lies outside its sensor.
        """
        counts = [polarity_counts(events, grid, self.config.count_clip) for _, events, grid in rows]
        x = torch.from_numpy(counts[0][None] if len(counts) == 1 else np.stack(counts))
        result = self.step(gather([state for state, _, _ in rows]), x)
        return [
            RowResult(result.logits[row : row + 1], state, result.counts_of(row))
            for row, state in enumerate(scatter(result.state, len(rows)))
        ]

    def class_mask(self, logits: Tensor, height: int, width: int, stride: int) -> NDArray[np.uint8]:
        """Class ids (height, width) of a picture, from the logits (1, classes, h, w) of its cells."""
        return class_mask(logits, height, width, stride)

    def activity(self, counts: Mapping[str, int], height: int, width: int) -> SpikeActivity:
        """What a row's spike counts mean on an input grid of that size: firing rates and synaptic operations by layer.

        An ANN twin has no spikes: all of its operations are analog multiply-accumulates.
        """
        geometry = _geometry(self.config, height, width)
        macs, neurons = geometry.macs, geometry.neurons
        total = float(sum(macs.values()))
        if not self.config.spiking:
            return SpikeActivity(tuple(LayerActivity(name, 0, 0, 0.0) for name in macs), total, total)
        layers = []
        for name, reads in geometry.sources.items():
            active = sum(counts[source] * times for source, times in reads)
            density = active / sum(neurons[source] * times for source, times in reads)
            fires = name != READOUT
            layers.append(
                LayerActivity(name, neurons[name] if fires else 0, counts[name] if fires else 0, density * macs[name])
            )
        return SpikeActivity(tuple(layers), total, float(macs["stem"]))
