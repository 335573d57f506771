"""The paper's networks with those layers that spikes go into computed where the spikes are.

These are the 3x3 convolutions whose input is not pooled; they have most of the operations. What multiplies stays with
PyTorch: the input's layer and those behind an average pooling, half of whose inputs are not zero, where adding up no
longer pays. The 1x1 convolutions to the classes are next to nothing.

Spikes are those of the reference, but for a neuron whose potential comes within rounding of the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.architectures.paper import INPUT, PaperConfig, normed_layers, synapses
from models.errors import BackendUnavailableError, WeightsError
from models.runtime.event_driven.layout import channels_last, empty
from models.runtime.event_driven.library import Kernel, kernel
from models.runtime.event_driven.plan import ABI, BYTES, LAYER, LIST_PAD, SIZES, SLOT, SPIKING, padded
from models.runtime.paper import PaperRuntime
from models.runtime.precision import from_int8, to_int8


def spiking_layers(config: PaperConfig) -> tuple[str, ...]:
    """Names of the layers that the kernel computes: those with neurons whose input is spikes, and not their average."""
    if not config.spiking:
        return ()
    table = synapses(config)
    return tuple(
        name
        for name in normed_layers(config)
        if table[name].reads != INPUT and not table[name].pooled and table[name].kernel ** 2 * table[name].cin <= 0xFFFF
    )


class EventDrivenPaperRuntime(PaperRuntime):
    """A paper network whose work grows with its spikes. CPU only.

    It computes on as many threads as torch would.

    Parameters
    ----------
    config : PaperConfig
    weights : mapping of Tensor
        As ``models.zoo.packing.unpack`` gives them: convolutions are int8 with a scale for each output channel.

    Raises
    ------
    WeightsError
        If a weight is missing, of another shape, not finite, or not what int8 holds.
    BackendUnavailableError
        If the kernel cannot be built here, or the network does not spike.
    """

    backend = "event-driven"

    def __init__(self, config: PaperConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__(config, weights)
        names = spiking_layers(config)
        if not names:
            raise BackendUnavailableError("the event-driven kernel runs spiking networks only")
        library = kernel()
        if library.sizes != ABI:
            raise BackendUnavailableError(f"{library.path} was built from another version of its source")
        self._layers = {name: SpikingLayerKernel(library, config, name, weights) for name in names}


class SpikingLayerKernel:
    """Convolution, batch norm of each step, and neurons of one layer, over dense spikes as PyTorch has them."""

    def __init__(self, library: Kernel, config: PaperConfig, name: str, weights: Mapping[str, Tensor]) -> None:
        self._kernel, self._synapse, self._config = library, synapses(config)[name], config
        weight = weights[f"{name}.weight"].detach().to(torch.float32)
        steps, scale = to_int8(weight)
        if not torch.allclose(from_int8(steps, scale), weight, rtol=1e-5, atol=0.0):
            raise WeightsError(f"weight {name}.weight is not one of int8 with a scale for each output channel")
        self._weight = padded(steps.permute(2, 3, 1, 0))
        self._scale = padded(weights[f"{name}.scale"].detach().to(torch.float32) * scale)
        self._bias = padded(weights[f"{name}.shift"].detach().to(torch.float32))
        self._keep = padded(torch.full((len(weight),), config.keep))
        # Who calls it chooses the size, so that what is kept is bounded.
        self._tables = lru_cache(maxsize=64)(self._make_tables)

    def _make_tables(self, height: int, width: int) -> NDArray[Any]:
        """For each time step the kernel's table: a layer that is read, and this one."""
        s = self._synapse
        tables = np.zeros((self._config.steps, 2), LAYER)
        source, layer = tables[:, 0], tables[:, 1]
        source["height"], source["width"], source["channels"] = height, width, s.cin
        layer["kind"], layer["form"], layer["in_channels"], layer["parts"] = SPIKING, BYTES, s.cin, 1
        sizes = (height, width, height, width, s.cout, s.kernel, 1, s.dilation, s.padding)
        for field, size in zip(SIZES, sizes, strict=True):
            layer[field] = size
        layer["part"]["channels"][:, 0] = s.cin
        # A neuron fires above the threshold, in the kernel from the next number on.
        threshold = np.float32(self._config.threshold)
        layer["fires_at"], layer["reset"] = np.nextafter(threshold, np.float32(np.inf)), threshold
        layer["weight"], layer["keep"] = self._weight.ctypes.data, self._keep.ctypes.data
        for step in range(self._config.steps):
            layer["scale"][step], layer["bias"][step] = self._scale[step].ctypes.data, self._bias[step].ctypes.data
        return tables

    def __call__(self, spikes: Tensor, v: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        batch, cin, height, width = spikes.shape
        table = self._tables(height, width)[step]
        seen, before = channels_last(spikes), channels_last(v)
        cout = self._synapse.cout
        after, fired = empty(batch, (cout, height, width)), empty(batch, (cout, height, width)).zero_()
        slots = np.zeros((batch, 2), SLOT)
        lists = [_Lists(batch, channels, height, width) for channels in (cin, cout)]
        for index, each in enumerate(lists):
            each.fill(slots[:, index])
        pixels = 4 * height * width
        for row in range(batch):
            slots[row, 1]["before"] = before.data_ptr() + row * pixels * cout
            slots[row, 1]["after"] = after.data_ptr() + row * pixels * cout
            self._kernel.list_spikes(seen.data_ptr() + row * pixels * cin, height, width, cin, *lists[0].pointers(row))
        failed = self._kernel.step(
            table.ctypes.data, 1, 2, 2, slots.ctypes.data, None, batch, torch.get_num_threads(), None
        )
        if failed:
            raise MemoryError("no memory to step the network in")
        for row in range(batch):
            self._kernel.unlist_spikes(
                *lists[1].pointers(row), height, width, cout, fired.data_ptr() + row * pixels * cout
            )
        return fired, after, torch.from_numpy(slots["spikes"][:, 1].copy())


class _Lists:
    """Room for the lists of one layer's spikes, of a batch."""

    def __init__(self, batch: int, channels: int, height: int, width: int) -> None:
        self._lists = np.empty((batch, height, width * channels + LIST_PAD), np.uint16)
        self._starts = np.empty((batch, height, width + 1), np.uint32)

    def pointers(self, row: int) -> tuple[int, int]:
        """The lists, and where each pixel's begin."""
        return self._lists[row].ctypes.data, self._starts[row].ctypes.data

    def fill(self, slots: NDArray[Any]) -> None:
        """Name them in the kernel's slots (batch,)."""
        for row in range(len(slots)):
            slots[row]["lists"], slots[row]["starts"] = self.pointers(row)
