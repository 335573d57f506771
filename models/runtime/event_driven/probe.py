"""One layer by itself, with input spikes of a chosen density, to be timed or looked at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.architectures.edge import sources
from models.runtime.event_driven.plan import LIST_PAD, SLOT
from models.runtime.event_driven.runtime import EventDrivenRuntime


class LayerProbe:
    """A layer of a network whose sources have fired at random.

    Parameters
    ----------
    runtime : EventDrivenRuntime
    layer : str
        Any but the stem and the readout.
    height, width : int
        The input grid.
    density : float
        Share of the neurons of its sources that have fired.
    seed : int

    Attributes
    ----------
    spikes : Tensor, (1, c_in, h, w)
        What the layer's convolution sees, as zeros and ones.
    membranes : Tensor, (1, c_out, h, w)
        Before the step.
    """

    def __init__(
        self, runtime: EventDrivenRuntime, layer: str, height: int, width: int, *, density: float, seed: int
    ) -> None:
        plan = runtime.network.plan(height, width)
        self._runtime, self._plan, self._layer = runtime, plan, plan.names.index(layer)
        rng = np.random.default_rng(seed)
        channels, rows, columns = plan.shapes[self._layer]
        before = rng.uniform(-1, 1, (1, rows, columns, channels)).astype(np.float32)
        self._after = np.empty_like(before)
        self.membranes = torch.from_numpy(before).permute(0, 3, 1, 2)
        self._memory = np.zeros(plan.spike_bytes, np.uint8)
        self._slots = np.zeros(len(plan.names), SLOT)
        start = np.uint64(self._memory.ctypes.data)
        self._slots["lists"], self._slots["starts"] = start + plan.list_offsets, start + plan.start_offsets
        self._slots["before"][self._layer] = before.ctypes.data
        self._slots["after"][self._layer] = self._after.ctypes.data
        finest = plan.shapes[plan.names.index(sources(runtime.config)[layer][-1][0])][1:]
        seen = []
        for name, times in sources(runtime.config)[layer]:
            fired = rng.random(plan.shapes[plan.names.index(name)]) < density
            self._fire(name, fired)
            if times == 4:
                fired = fired.repeat(2, axis=1).repeat(2, axis=2)[:, : finest[0], : finest[1]]
            seen.append(fired)
        self.spikes = torch.from_numpy(np.concatenate(seen).astype(np.float32))[None]

    def _fire(self, name: str, fired: np.ndarray) -> None:
        index = self._plan.names.index(name)
        channels, rows, columns = fired.shape
        pitch = columns * channels + LIST_PAD
        begin = int(self._plan.list_offsets[index])
        lists = self._memory[begin : begin + 2 * rows * pitch].view(np.uint16).reshape(rows, pitch)
        begin = int(self._plan.start_offsets[index])
        starts = self._memory[begin : begin + 4 * rows * (columns + 1)].view(np.uint32).reshape(rows, columns + 1)
        for y in range(rows):
            pixels, found = np.nonzero(fired[:, y].T)
            lists[y, : len(found)] = found
            starts[y] = np.searchsorted(pixels, np.arange(columns + 1))

    def run(self) -> int:
        """Compute the layer on as many threads as torch would; nanoseconds that it took, without starting threads."""
        self._slots["spikes"] = 0
        spent = np.zeros(len(self._plan.names), np.int64)
        self._runtime.run_layers(self._plan, self._slots, self._layer, self._layer + 1, None, spent)
        return int(spent[self._layer])

    @property
    def result(self) -> tuple[Tensor, int]:
        """Membranes (1, c_out, h, w) after the step, and how many neurons fired."""
        return torch.from_numpy(self._after).permute(0, 3, 1, 2), int(self._slots["spikes"][self._layer])
