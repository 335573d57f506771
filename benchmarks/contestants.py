"""What is compared: each takes the events of a window and gives a mask, and has its network apart from the rest.

All compute in float32, without gradients, on as many threads as torch is told, in memory that is kept. Those that are
not ours get good code for what lies around their network: counts by ``np.bincount``, masks by the kernel's own C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from models import zoo
from models.architectures.edge import READOUT, EdgeDeepLab
from models.architectures.paper import PaperConfig, PaperNetwork, fold_bntt, layer_macs
from models.encoding import InputGrid, polarity_counts
from models.events import EventBatch, SensorSize
from models.runtime.activity import SpikeActivity
from models.runtime.edge import EdgeRuntime
from models.runtime.paper import PaperRuntime
from models.runtime.streaming import StreamingModel
from models.training.shipped import unfold

STEPS = PaperConfig().steps
Mask = NDArray[np.uint8]
MakeMask = Callable[[Tensor, int, int, int], Mask]
"""From logits (1, classes, h, w), height, width and stride, as ``EdgeRuntime.class_mask``."""


class Contestant(Protocol):
    """Answers the windows of one stream, and carries its state if it has any."""

    def prepare(self, window: EventBatch) -> Any:
        """The network's input."""

    def network(self, x: Any) -> Tensor:
        """Logits (1, classes, h, w); carries the state on."""

    def segment(self, window: EventBatch) -> Mask:
        """The mask, of the sensor's size; carries the state on."""


class Ours:
    """A streaming network of the zoo by the runtime, on whichever backend it was loaded for, as the service runs it."""

    def __init__(self, model: StreamingModel, sensor: SensorSize) -> None:
        self.model, self._sensor, self._grid = model, sensor, model.grid(sensor)
        self._state = model.initial_state(sensor)
        self._bare = model.initial_state(sensor)
        self.activity: SpikeActivity | None = None

    def prepare(self, window: EventBatch) -> Tensor:
        """Polarity counts (1, 2, h, w)."""
        return counts_of(window, self._grid, self.model.runtime.config.count_clip)

    def network(self, x: Tensor) -> Tensor:
        """Logits; the state that it carries is its own, not that of ``segment``."""
        result = self.model.runtime.step(self._bare, x)
        self._bare = result.state
        return result.logits

    def segment(self, window: EventBatch) -> Mask:
        """The mask, its spikes and operations counted too, as for every window of the service."""
        answer = self.model.segment(self._state, window, self._sensor)
        self._state, self.activity = answer.state, answer.activity
        return answer.mask


class SpikingJelly:
    """The same weights in SpikingJelly's modules, one time step a call, membranes left in them from call to call.

    Batch norm is folded into the convolutions and memory is channels last, which is the faster way for it too.
    """

    def __init__(self, model: StreamingModel, sensor: SensorSize, mask: MakeMask) -> None:
        self._network = single_step(unfold(model))
        self._grid, self._sensor, self._config, self._mask = model.grid(sensor), sensor, model.runtime.config, mask

    def prepare(self, window: EventBatch) -> Tensor:
        """Polarity counts (1, 2, h, w)."""
        counts = counts_of(window, self._grid, self._config.count_clip)
        return counts.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def network(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self._network(x)
        return logits

    def segment(self, window: EventBatch) -> Mask:
        """The mask."""
        logits = self.network(self.prepare(window))
        stride = self._config.output_stride * self._grid.factor
        return self._mask(logits, self._sensor.height, self._sensor.width, stride)


def single_step(network: EdgeDeepLab) -> EdgeDeepLab:
    """The network for inference: batch norms folded into the convolutions, one time step (B, C, H, W) a call."""
    for name, synapse in network.synapses.items():
        if name != READOUT:
            assert isinstance(synapse, nn.Sequential)
            network.synapses[name] = nn.utils.fuse_conv_bn_eval(*synapse)
    functional.set_step_mode(network, "s")
    functional.reset_net(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


class FromRest:
    """The same network by the paper's protocol: T steps from rest for each answer, each with a T-th of the events."""

    def __init__(self, model: StreamingModel, sensor: SensorSize) -> None:
        self._model, self._sensor, self._grid = model, sensor, model.grid(sensor)
        self._rest = model.initial_state(sensor)
        self.joules = 0.0

    def prepare(self, window: EventBatch) -> list[Tensor]:
        """Polarity counts of each step, (1, 2, h, w)."""
        return [counts_of(piece, self._grid, self._model.runtime.config.count_clip) for piece in pieces(window)]

    def network(self, x: list[Tensor]) -> Tensor:
        """Logits of the last step."""
        state = self._rest
        for counts in x:
            result = self._model.runtime.step(state, counts)
            state = result.state
        return result.logits

    def segment(self, window: EventBatch) -> Mask:
        """The mask after the last step; those before it make none. ``joules`` is what all of them are estimated at."""
        *first, last = pieces(window)
        state, joules, runtime = self._rest, 0.0, self._model.runtime
        for piece in first:
            (row,) = runtime.answer([(state, piece, self._grid)])
            joules += runtime.activity(row.spike_counts, self._grid.height, self._grid.width).energy_snn_j
            state = row.state
        answer = self._model.segment(state, last, self._sensor)
        self.joules = joules + answer.activity.energy_snn_j
        return answer.mask


class PaperFromRest:
    """The paper's own Spiking-DeepLab by its protocol, over all pixels of the sensor; its weights are random.

    With batch norms for T = 20 steps it has never been trained here; what it costs on dense kernels does not hang on
    its weights.
    """

    def __init__(self, sensor: SensorSize, mask: MakeMask, seed: int) -> None:
        torch.manual_seed(seed)
        config = PaperConfig()
        self._runtime = PaperRuntime(config, fold_bntt(PaperNetwork(config)))
        self._sensor, self._grid, self._mask = sensor, InputGrid(sensor, 1), mask
        self.macs = config.steps * sum(layer_macs(config, sensor.height, sensor.width).values())

    def prepare(self, window: EventBatch) -> list[Tensor]:
        """Polarity counts of each step, (1, 2, h, w)."""
        return [counts_of(piece, self._grid, 4) for piece in pieces(window)]

    def network(self, x: list[Tensor]) -> Tensor:
        """Logits of the pixels."""
        state = self._runtime.initial_state(1, self._grid.height, self._grid.width)
        for step, counts in enumerate(x):
            state = self._runtime.step(state, counts, step).state
        return self._runtime.logits(state, self._sensor.height, self._sensor.width)

    def segment(self, window: EventBatch) -> Mask:
        """The mask after the last step."""
        return self._mask(self.network(self.prepare(window)), self._sensor.height, self._sensor.width, 1)


def counts_of(window: EventBatch, grid: InputGrid, clip: int) -> Tensor:
    """Polarity counts (1, 2, h, w) of a window."""
    return torch.from_numpy(polarity_counts(window, grid, clip)[None])


def pieces(window: EventBatch) -> list[EventBatch]:
    """A window in T parts with as many events each."""
    n = len(window)
    return [window[n * k // STEPS : n * (k + 1) // STEPS] for k in range(STEPS)]


def unbinned(model: StreamingModel, sensor: SensorSize) -> StreamingModel:
    """The same weights over a grid with a cell for each of the sensor's pixels, whatever the sensor's size."""
    config = replace(model.runtime.config, grid=max(sensor.width, sensor.height))
    runtime: EdgeRuntime = type(model.runtime)(config, load_file(zoo.ZOO / f"{model.name}.safetensors"))
    return StreamingModel(model.name, runtime, model.classes, model.window_us, model.card)
