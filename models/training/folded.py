"""A network of the zoo as an ``nn.Module``, and an exact count of what its spikes cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from models import zoo
from models.architectures.edge import READOUT, EdgeConfig, forward_graph, layer_shapes, synapses
from models.runtime.lif import leaky_readout_step, lif_step
from models.runtime.streaming import StreamingModel
from models.training.evaluate import SENSOR


class Membranes(nn.Module):
    """Membranes of one layer, one time step for each call."""

    keep: Tensor
    v: Tensor

    def __init__(self, keep: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("keep", keep.reshape(-1, 1, 1))
        self.register_buffer("v", torch.zeros(1, *shape))


class Neurons(Membranes):
    """Leaky integrate-and-fire neurons: the runtime's arithmetic."""

    def forward(self, current: Tensor) -> Tensor:
        """Spikes (1, C, h, w), 0.0 or 1.0, from a synaptic input of that shape, which is used up."""
        spikes, self.v = lif_step(current, self.v, self.keep)
        return spikes


class Readout(Membranes):
    """Neurons that integrate and leak but never fire."""

    def forward(self, current: Tensor) -> Tensor:
        """Membrane potentials (1, C, h, w), from a synaptic input of that shape, which is used up."""
        self.v = leaky_readout_step(current, self.v, self.keep)
        return self.v


class FoldedNetwork(nn.Module):
    """A network of the zoo as a module, with batch norm folded, so that counters which hook into modules can see it.

    It computes what the runtime does, to the bit, and like it takes the present window alone: membranes, and for a twin
    the windows before, are its buffers.

    Parameters
    ----------
    config : EdgeConfig
    weights : mapping of Tensor
        As ``models.architectures.edge.fold_batch_norm`` gives them.
    height, width : int
        Input grid in cells.
    """

    history: Tensor

    def __init__(self, config: EdgeConfig, weights: Mapping[str, Tensor], height: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.convs = nn.ModuleDict()
        self.neurons = nn.ModuleDict()
        shapes = layer_shapes(config, height, width)
        for name, s in synapses(config).items():
            conv = nn.Conv2d(s.cin, s.cout, s.kernel, s.stride, s.padding, s.dilation)
            conv.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
            self.convs[name] = conv
            if config.spiking:
                self.neurons[name] = (Readout if name == READOUT else Neurons)(weights[f"{name}.keep"], shapes[name])
            else:
                self.neurons[name] = nn.Identity() if name == READOUT else nn.ReLU()
        self.register_buffer("history", torch.zeros(1, config.input_channels - 2, height, width))
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def rest(self) -> None:
        """Forget the stream: membranes to rest, no windows before."""
        self.history = torch.zeros_like(self.history)
        for module in self.neurons.values():
            if isinstance(module, Membranes):
                module.v = torch.zeros_like(module.v)

    def forward(self, x: Tensor) -> Tensor:
        """Polarity counts (1, 2, H, W) of one window to logits."""
        return self.forward_with_traffic(x)[0]

    def forward_with_traffic(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Like ``forward``, and what goes into each convolution and comes out of its neurons, by layer."""
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}

        def synapse(name: str, spikes: Tensor) -> Tensor:
            inputs[name] = spikes
            current: Tensor = self.convs[name](spikes)
            return current

        def neurons(name: str, current: Tensor) -> Tensor:
            outputs[name] = self.neurons[name](current)
            return outputs[name]

        seen = torch.cat([self.history, x], dim=1).contiguous(memory_format=torch.channels_last)
        self.history = seen[:, 2:]
        return forward_graph(self.config, seen, synapse, neurons), inputs, outputs


def folded_network(model: StreamingModel, folder: Path = zoo.ZOO) -> FoldedNetwork:
    """A network of the zoo as a module, over the grid that it sees of a 346x260 sensor."""
    grid = model.grid(SENSOR)
    return FoldedNetwork(model.runtime.config, load_file(folder / f"{model.name}.safetensors"), grid.height, grid.width)


@dataclass(frozen=True, slots=True)
class LayerCount:
    """What one layer did in one window.

    Attributes
    ----------
    inputs, active_inputs : int
        Values that its convolution reads, and those of them that are not zero.
    effective : int
        Operations: taps on the grid that meet an input and a weight which are not zero.
    neurons, active : int
        Neurons (or ReLU units), and those that fire (or are above zero).
    """

    inputs: int
    active_inputs: int
    effective: int
    neurons: int
    active: int


def effective_operations(x: Tensor, conv: nn.Conv2d) -> int:
    """Exact number of taps of a convolution that meet an input and a weight which are not zero; biases are left out.

    Parameters
    ----------
    x : Tensor, (B, C, H, W)
    conv : nn.Conv2d
        Zero padding, one group.
    """
    # What an active input costs at a tap: the output channels that the tap has a weight for. Double precision, as the
    # sums go beyond the whole numbers that single precision holds.
    fan_out = torch.count_nonzero(conv.weight, dim=0)[None].double()
    taps = F.conv2d((x != 0).double(), fan_out, None, conv.stride, conv.padding, conv.dilation)
    return int(taps.sum())


@torch.no_grad()
def count_window(network: FoldedNetwork, x: Tensor) -> dict[str, LayerCount]:
    """Advance a network one window (1, 2, H, W) and count what each of its layers did, in the order they run."""
    _, inputs, outputs = network.forward_with_traffic(x)
    return {
        name: LayerCount(
            inputs[name].numel(),
            int(torch.count_nonzero(inputs[name])),
            effective_operations(inputs[name], conv),
            0 if name == READOUT else outputs[name].numel(),
            0 if name == READOUT else int(torch.count_nonzero(outputs[name])),
        )
        for name, conv in network.convs.items()
        if isinstance(conv, nn.Conv2d)
    }
