"""Streaming Spiking-DeepLab: one step for each window, binary spikes between all layers, state carried for ever.

After Kim, Chough and Panda (arXiv 2110.07742), with what an endless stream asks for: a strided stem instead of average
pooling (an average of spikes is no spike), one batch norm shared over time (tdBN, Zheng et al., AAAI 2021; folded at
export) instead of one for each time step, learnable leaks (PLIF, Fang et al., ICCV 2021), and a readout that leaks, so
that it stays bounded. Atrous spatial pyramid and decoder follow DeepLabV3+ (Chen et al., ECCV 2018).

The graph is written once, in :func:`forward_graph`, over named synapses and neurons. Training runs it over
SpikingJelly's stateful modules, the runtime over an explicit state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from spikingjelly.activation_based import base, layer, neuron, surrogate
from torch import Tensor, nn

READOUT = "readout"
BN_EPS = 1e-5
Apply = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Shape of a streaming Spiking-DeepLab.

    Attributes
    ----------
    classes : int
    stem, stride4, stride8 : int
        Channels at output strides 2, 4 and 8.
    pyramid : int
        Channels of each atrous branch.
    pyramid_rates : tuple of int
        Dilations of the branches; 1 stands for a 1x1 convolution.
    decoder : int
        Channels of the decoder, at stride 4.
    readout_scale : int
        Logits that the readout gives along each side of a decoder cell (sub-pixel convolution, Shi et al., CVPR 2016).
    grid : int
        Longest side of the input grid that the network was trained for, in cells.
    count_clip : int
        Largest polarity count of a cell.
    init_tau : float
        Time constant of the membranes before training, in windows.
    input_channels : int
        2 for OFF and ON; the ANN twin that sees ``k`` windows at once has ``2 k``.
    spiking : bool
        False gives the ANN twin: the same synapses with ReLU in place of the neurons, and no state.
    """

    classes: int = 6
    stem: int = 32
    stride4: int = 48
    stride8: int = 96
    pyramid: int = 48
    pyramid_rates: tuple[int, ...] = (1, 6, 12)
    decoder: int = 32
    readout_scale: int = 1
    grid: int = 346
    count_clip: int = 4
    init_tau: float = 2.0
    input_channels: int = 2
    spiking: bool = True

    @property
    def output_stride(self) -> int:
        """Input cells to a cell of the logits, along each side."""
        return 4 // self.readout_scale

    @property
    def history(self) -> int:
        """Windows that the network sees at once: 1 if it spikes, its state holds the rest."""
        return self.input_channels // 2


@dataclass(frozen=True, slots=True)
class Synapse:
    """One convolution: geometry alone, no weights."""

    cin: int
    cout: int
    kernel: int
    stride: int = 1
    dilation: int = 1

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel // 2)


def synapses(config: EdgeConfig) -> dict[str, Synapse]:
    """The convolutions by name, in the order in which they run."""
    c = config
    table = {
        "stem": Synapse(c.input_channels, c.stem, 5, stride=2),
        "down4": Synapse(c.stem, c.stride4, 3, stride=2),
        "enc4": Synapse(c.stride4, c.stride4, 3),
        "down8": Synapse(c.stride4, c.stride8, 3, stride=2),
        "enc8a": Synapse(c.stride8, c.stride8, 3, dilation=2),
        "enc8b": Synapse(c.stride8, c.stride8, 3, dilation=4),
    }
    for rate in c.pyramid_rates:
        table[f"pyramid{rate}"] = Synapse(c.stride8, c.pyramid, 1 if rate == 1 else 3, dilation=rate)
    table["context"] = Synapse(c.pyramid * len(c.pyramid_rates), c.stride4, 1)
    table["decoder"] = Synapse(2 * c.stride4, c.decoder, 3)
    table[READOUT] = Synapse(c.decoder, c.classes * c.readout_scale**2, 1)
    return table


def forward_graph(config: EdgeConfig, x: Tensor, synapse: Apply, neurons: Apply) -> Tensor:
    """Run the network's graph over whatever applies its synapses and neurons.

    Parameters
    ----------
    config : EdgeConfig
    x : Tensor, (..., channels, H, W)
        Polarity counts.
    synapse, neurons : callable
        ``synapse(name, spikes) -> current`` and ``neurons(name, current) -> spikes``.

    Returns
    -------
    Tensor, (..., classes, ceil(H / s), ceil(W / s)), s = config.output_stride
        Membrane potentials of the readout: the logits.
    """

    def fire(name: str, spikes: Tensor) -> Tensor:
        return neurons(name, synapse(name, spikes))

    s2 = fire("stem", x)
    s4 = fire("enc4", fire("down4", s2))
    s8 = fire("enc8b", fire("enc8a", fire("down8", s4)))
    pyramid = torch.cat([fire(f"pyramid{rate}", s8) for rate in config.pyramid_rates], dim=-3)
    context = _double(fire("context", pyramid), s4.shape[-2], s4.shape[-1])
    decoded = fire("decoder", torch.cat([context, s4], dim=-3))
    finest = F.pixel_shuffle(fire(READOUT, decoded), config.readout_scale)
    height, width = (-(-side // config.output_stride) for side in x.shape[-2:])
    return finest[..., :height, :width]


def _double(x: Tensor, height: int, width: int) -> Tensor:
    """Repeat each cell 2x2 and cut to size; spikes stay binary."""
    rows = x.flatten(0, -4) if x.ndim > 4 else x
    doubled = F.interpolate(rows, scale_factor=2.0, mode="nearest")[..., :height, :width]
    return doubled.reshape(*x.shape[:-2], height, width)


class LeakyReadout(base.MemoryModule):  # type: ignore[misc]
    """Membranes that integrate and leak but never fire: ``v ← v + (x − v)·q``, a running mean of the input.

    The leak ``q = sigmoid(w)`` is learned for each channel. The membranes stay within the range of the input for ever,
    where an accumulator without leak diverges on an endless stream.
    """

    v: Tensor

    def __init__(self, channels: int, init_tau: float = 4.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((channels, 1, 1), -torch.log(torch.tensor(init_tau - 1.0)).item()))
        self.register_memory("v", 0.0)

    def single_step_forward(self, x: Tensor) -> Tensor:
        """Advance one time step; (B, channels, h, w)."""
        self.v = self.v + (x - self.v) * self.w.sigmoid()
        return self.v

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """Advance T time steps; (T, B, channels, h, w)."""
        return torch.stack([self.single_step_forward(x) for x in x_seq])


class EdgeDeepLab(nn.Module):
    """The network for training, from SpikingJelly layers, in multi-step mode: (T, B, C, H, W) in and out.

    Membranes live in the SpikingJelly nodes: they carry over from one call to the next until
    ``spikingjelly.activation_based.functional.reset_net``.
    """

    def __init__(self, config: EdgeConfig) -> None:
        super().__init__()
        self.config = config
        self.synapses = nn.ModuleDict()
        self.neurons = nn.ModuleDict()
        for name, s in synapses(config).items():
            last = name == READOUT
            conv = layer.Conv2d(s.cin, s.cout, s.kernel, s.stride, s.padding, s.dilation, bias=last, step_mode="m")
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            self.synapses[name] = (
                conv if last else nn.Sequential(conv, layer.BatchNorm2d(s.cout, eps=BN_EPS, step_mode="m"))
            )
            if config.spiking:
                self.neurons[name] = _readout(s.cout) if last else _plif(s.cout, config.init_tau)
            else:
                self.neurons[name] = nn.Identity() if last else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Polarity counts (T, B, channels, H, W) to logits (T, B, classes, ceil(H / s), ceil(W / s))."""
        logits, _ = self.forward_with_spikes(x)
        return logits

    def forward_with_spikes(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Like ``forward``, and every layer's output spikes (T, B, C, h, w) by name."""
        spikes: dict[str, Tensor] = {}

        def neurons(name: str, current: Tensor) -> Tensor:
            spikes[name] = self.neurons[name](current)
            return spikes[name]

        logits = forward_graph(self.config, x, lambda name, s: self.synapses[name](s), neurons)
        del spikes[READOUT]
        return logits, spikes


def _plif(channels: int, init_tau: float) -> nn.Module:
    node = neuron.ParametricLIFNode(
        init_tau=init_tau,
        decay_input=False,
        v_threshold=1.0,
        v_reset=None,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        step_mode="m",
    )
    # One leak for each channel: SpikingJelly's equations broadcast over it.
    node.w = nn.Parameter(node.w.detach().expand(channels, 1, 1).clone())
    return node  # type: ignore[no-any-return]


def _readout(channels: int) -> LeakyReadout:
    readout = LeakyReadout(channels)
    readout.step_mode = "m"
    return readout


def fold_batch_norm(network: EdgeDeepLab) -> dict[str, Tensor]:
    """Weights for the runtime: batch norm folded into the convolutions, leaks as the share that is kept.

    Returns
    -------
    dict
        For each layer ``NAME.weight`` (cout, cin, k, k), ``NAME.bias`` (cout,) and, if it spikes, ``NAME.keep``
        (cout,), the share of the membrane potential that outlives a step.
    """
    spiking = network.config.spiking
    trained = {name: value.detach() for name, value in network.state_dict().items()}
    folded: dict[str, Tensor] = {}
    for name in network.synapses:
        if spiking:
            folded[f"{name}.keep"] = keep = 1 - trained[f"neurons.{name}.w"].sigmoid().reshape(-1)
        if name == READOUT:
            weight = trained[f"synapses.{name}.weight"]
            # A spiking readout's input is scaled by its leak: v ← keep·v + (1 − keep)·x.
            scale = 1 - keep if spiking else torch.ones(len(weight))
            bias = trained[f"synapses.{name}.bias"] * scale
        else:
            weight = trained[f"synapses.{name}.0.weight"]
            norm = {
                key: trained[f"synapses.{name}.1.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
            }
            scale = norm["weight"] / torch.sqrt(norm["running_var"] + BN_EPS)
            bias = norm["bias"] - norm["running_mean"] * scale
        folded[f"{name}.weight"] = weight * scale[:, None, None, None]
        folded[f"{name}.bias"] = bias
    return folded


def add_class_bias(network: EdgeDeepLab, bias: Tensor) -> None:
    """Add (classes,) to the logits of a trained network, in place."""
    readout = network.get_parameter(f"synapses.{READOUT}.bias")
    with torch.no_grad():
        readout.add_(bias.repeat_interleave(network.config.readout_scale**2))


def class_mask(logits: Tensor, height: int, width: int, stride: int) -> NDArray[np.uint8]:
    """Class ids of a picture, from the logits of its cells.

    Parameters
    ----------
    logits : Tensor, (1, classes, h, w)
    height, width : int
        Size of the picture.
    stride : int
        Pixels of the picture to a cell of the logits; between their centres the logits are bilinear.

    Returns
    -------
    uint8 array, (height, width)
    """
    full = F.interpolate(logits, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return full[0, :, :height, :width].argmax(0).to(torch.uint8).numpy()


def layer_shapes(config: EdgeConfig, height: int, width: int) -> dict[str, tuple[int, int, int]]:
    """Output shape (channels, h, w) of each layer for an input grid of height x width cells."""
    sizes = {"input": (height, width)}
    shapes: dict[str, tuple[int, int, int]] = {}
    for name, s in synapses(config).items():
        h, w = sizes[_SIZE_OF.get(name, "enc8b" if name.startswith("pyramid") else "input")]
        sizes[name] = (-(-h // s.stride), -(-w // s.stride))
        shapes[name] = (s.cout, *sizes[name])
    return shapes


# The layer whose output grid a layer's convolution runs over.
_SIZE_OF = {
    "stem": "input",
    "down4": "stem",
    "enc4": "down4",
    "down8": "enc4",
    "enc8a": "down8",
    "enc8b": "enc8a",
    "context": "enc8b",
    "decoder": "enc4",
    READOUT: "decoder",
}


def sources(config: EdgeConfig) -> dict[str, tuple[tuple[str, int], ...]]:
    """For each layer, whose spikes it reads and how many times over (the decoder sees each context cell as 2x2)."""
    table: dict[str, tuple[tuple[str, int], ...]] = {
        "stem": (("input", 1),),
        "down4": (("stem", 1),),
        "enc4": (("down4", 1),),
        "down8": (("enc4", 1),),
        "enc8a": (("down8", 1),),
        "enc8b": (("enc8a", 1),),
    }
    branches = [f"pyramid{rate}" for rate in config.pyramid_rates]
    for branch in branches:
        table[branch] = (("enc8b", 1),)
    table["context"] = tuple((branch, 1) for branch in branches)
    table["decoder"] = (("context", 4), ("enc4", 1))
    table[READOUT] = (("decoder", 1),)
    return table


def layer_macs(config: EdgeConfig, height: int, width: int) -> dict[str, int]:
    """Dense multiply-accumulates of each layer in one step, padding counted as input."""
    shapes = layer_shapes(config, height, width)
    return {
        name: s.cin * s.kernel**2 * shapes[name][0] * shapes[name][1] * shapes[name][2]
        for name, s in synapses(config).items()
    }
