"""The paper's two networks, Spiking-DeepLab and Spiking-FCN: Kim, Chough and Panda, arXiv 2110.07742 (``vgg9``).

Every answer takes T steps from rest, and each step has a batch norm of its own (BNTT), which ties a network to T: it
cannot run an endless stream. They are here as the reference that the streaming networks are compared with.

Layers, neurons and initialisation are those of the authors' code. Two things are not: any input size works, and the
FCN's last membranes are divided by T as DeepLab's are (there they are left as sums, which names the same classes).

A graph is written once, in :func:`forward_graph`, over named synapses and neurons. Training runs it over SpikingJelly's
stateful modules, the runtime over an explicit state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

BN_EPS = 1e-4
INPUT = "input"
SCORE = "score"

Kind = Literal["deeplab", "fcn"]
Surrogate = Literal["linear", "fast-sigmoid", "exponential"]
Apply = Callable[[str, Tensor], Tensor]

SLOPES: Mapping[Surrogate, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: 0.3 * (1 - x.abs()).clamp_min(0),
    "fast-sigmoid": lambda x: (100 * x.abs() + 1) ** -2,
    "exponential": lambda x: torch.exp(-10 * x.abs()),
}
"""Surrogate derivatives of the spike at x = u / θ − 1: Bellec et al. (2018), Zenke and Ganguli (2018), Shrestha and
Orchard (2018), each with the authors' constants."""


@dataclass(frozen=True, slots=True)
class PaperConfig:
    """Shape of one of the paper's networks.

    Attributes
    ----------
    kind : "deeplab" or "fcn"
    classes : int
        6 for DDD17, 21 for VOC2012.
    input_channels : int
        2 event channels for DDD17, 3 colours for VOC2012.
    steps : int
        T; each step has its own batch norm.
    spiking : bool
        False gives the ANN twin: ReLU, one pass, no batch norm.
    surrogate : "linear", "fast-sigmoid" or "exponential"
        What takes the place of the spike's derivative in training.
    keep : float
        Share of a membrane potential that outlives a step, between 0 and 1.
    threshold : float
        θ: a neuron fires where its potential is above it.

    Raises
    ------
    ValueError
        If a field is outside its range.
    """

    kind: Kind = "deeplab"
    classes: int = 6
    input_channels: int = 2
    steps: int = 20
    spiking: bool = True
    surrogate: Surrogate = "linear"
    keep: float = 0.99
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in LAYERS:
            raise ValueError(f"kind is {self.kind!r}, expected one of {', '.join(LAYERS)}")
        if self.surrogate not in SLOPES:
            raise ValueError(f"surrogate is {self.surrogate!r}, expected one of {', '.join(SLOPES)}")
        if min(self.classes, self.input_channels, self.steps) < 1:
            raise ValueError("classes, input_channels and steps must be at least 1")
        if not 0 < self.keep < 1 or not self.threshold > 0:
            raise ValueError("keep must lie between 0 and 1, and threshold above 0")


@dataclass(frozen=True, slots=True)
class PaperLayer:
    """A 3x3 convolution without bias and its neurons.

    Attributes
    ----------
    name : str
    channels : int
    dilation : int
    pooled : bool
        Whether an average pooling (3, stride 2) follows.
    skip : str
        Name of the 1x1 convolution to the classes that reads the spikes before they are pooled, if any.
    """

    name: str
    channels: int
    dilation: int = 1
    pooled: bool = False
    skip: str = ""


LAYERS: Mapping[Kind, tuple[PaperLayer, ...]] = {
    "deeplab": (
        PaperLayer("conv1", 64),
        PaperLayer("conv2", 64, pooled=True),
        PaperLayer("conv3", 128),
        PaperLayer("conv4", 128, pooled=True),
        PaperLayer("conv5", 256),
        PaperLayer("conv6", 256, dilation=2),
        PaperLayer("conv7", 256, dilation=2),
        PaperLayer("atrous", 1024, dilation=12),
    ),
    "fcn": (
        PaperLayer("conv1", 64),
        PaperLayer("conv2", 64, pooled=True, skip="skip1"),
        PaperLayer("conv3", 128),
        PaperLayer("conv4", 128, pooled=True, skip="skip2"),
        PaperLayer("conv5", 256),
        PaperLayer("conv6", 256),
        PaperLayer("conv7", 256, pooled=True, skip="skip4"),
        PaperLayer("conv8", 1024),
        PaperLayer("conv9", 1024),
    ),
}
STAGES: Mapping[Kind, tuple[str, ...]] = {"deeplab": (), "fcn": ("up4", "up2", "up1")}
"""Transposed convolutions back up, by the stride that each comes to; the last one's membranes are the answer."""


def readout(kind: Kind) -> str:
    """Name of the layer whose membranes gather the answer and never fire."""
    return STAGES[kind][-1] if STAGES[kind] else SCORE


@dataclass(frozen=True, slots=True)
class Synapse:
    """One convolution: geometry alone, no weights.

    Attributes
    ----------
    cin, cout, kernel, dilation : int
    bias : bool
    transposed : bool
        Whether it is a transposed convolution of stride 2, which is resized to the skip that is added to it.
    reads : str
        Layer whose output it reads, or ``input``.
    pooled : bool
        Whether it reads that output averaged (3, stride 2).
    """

    cin: int
    cout: int
    kernel: int
    dilation: int = 1
    bias: bool = False
    transposed: bool = False
    reads: str = INPUT
    pooled: bool = False

    @property
    def padding(self) -> int:
        return 0 if self.transposed else self.dilation * (self.kernel // 2)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight as PyTorch keeps it; input channels come first if the convolution is transposed."""
        first, second = (self.cin, self.cout) if self.transposed else (self.cout, self.cin)
        return first, second, self.kernel, self.kernel


def synapses(config: PaperConfig) -> dict[str, Synapse]:
    """The convolutions by name, in the order in which they run."""
    table: dict[str, Synapse] = {}
    cin, reads, pooled = config.input_channels, INPUT, False
    for layer in LAYERS[config.kind]:
        table[layer.name] = Synapse(cin, layer.channels, 3, layer.dilation, reads=reads, pooled=pooled)
        if layer.skip:
            table[layer.skip] = Synapse(layer.channels, config.classes, 1, bias=True, reads=layer.name)
        cin, reads, pooled = layer.channels, layer.name, layer.pooled
    stages = STAGES[config.kind]
    table[SCORE] = Synapse(cin, config.classes, 1, bias=bool(stages), reads=reads)
    reads = SCORE
    for stage in stages:
        table[stage] = Synapse(config.classes, config.classes, 3, transposed=True, reads=reads)
        reads = stage
    return table


def neuron_layers(config: PaperConfig) -> tuple[str, ...]:
    """Names of the layers that fire, in the order in which they run; those of the stages have no batch norm."""
    return normed_layers(config) + STAGES[config.kind][:-1]


def normed_layers(config: PaperConfig) -> tuple[str, ...]:
    """Names of the layers with a batch norm for each step (in the spiking network)."""
    return tuple(layer.name for layer in LAYERS[config.kind])


def forward_graph(config: PaperConfig, x: Tensor, synapse: Apply, fire: Apply) -> Tensor:
    """Run one time step of a network's graph over whatever applies its synapses and neurons.

    Parameters
    ----------
    config : PaperConfig
    x : Tensor, (B, channels, H, W)
    synapse, fire : callable
        ``synapse(name, x) -> current``, the step's batch norm included, and ``fire(name, current) -> spikes``.

    Returns
    -------
    Tensor, (B, classes, h, w)
        Input current of the readout: DeepLab's at stride 4, the FCN's at the size of the input.
    """
    skips: list[Tensor] = []
    for layer in LAYERS[config.kind]:
        x = fire(layer.name, synapse(layer.name, x))
        if layer.skip:
            skips.append(synapse(layer.skip, x))
        if layer.pooled:
            x = F.avg_pool2d(x, 3, 2, 1)
    current = synapse(SCORE, x)
    spikes = current
    for stage, skip in zip(STAGES[config.kind], reversed(skips), strict=True):
        current = resize(synapse(stage, spikes), skip.shape[-2:]) + skip
        if stage != readout(config.kind):
            spikes = fire(stage, current)
    return current


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bring (B, C, h, w) to a height and width, bilinear between the centres of the corner cells."""
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def dilated_convolution(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """A 3x3 convolution (B, C, h, w) without bias, zeros around it, that leaves out what only reads those zeros.

    With a dilation near the size of its input, as the paper's atrous layer has on small pictures, most of a
    convolution's products have padding for a factor: each tap is one 1x1 convolution here, of the part of the input
    that it meets.
    """
    height, width = x.shape[-2:]
    out: Tensor | None = None
    for i, j in _taps(height, width, dilation):
        dy, dx = (i - 1) * dilation, (j - 1) * dilation
        met = x[..., max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
        part = F.conv2d(met, weight[:, :, i : i + 1, j : j + 1])
        # Back to where the tap's output cells lie: left, right, top, bottom.
        part = F.pad(part, (max(0, -dx), max(0, dx), max(0, -dy), max(0, dy)))
        out = part if out is None else out + part
    assert out is not None
    return out


def _taps(height: int, width: int, dilation: int) -> list[tuple[int, int]]:
    """The taps of a 3x3 kernel that meet the input, the middle one first."""
    rows = [1] + ([0, 2] if dilation < height else [])
    columns = [1] + ([0, 2] if dilation < width else [])
    return [(i, j) for i in rows for j in columns]


def mostly_padding(height: int, width: int, dilation: int) -> bool:
    """Whether ``dilated_convolution`` has less than a third of a dense convolution's products to compute."""
    share = 1.0
    for side in (height, width):
        share *= (side + 2 * max(0, side - dilation)) / (3 * side)
    return share < 1 / 3


class Spike(torch.autograd.Function):
    """Heaviside forward, 1 where x > 0; backward, a slope in place of its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * ctx.slope(x), None


class Firing(nn.Module):
    """Spikes of potentials u, given as SpikingJelly gives them, u − θ; the surrogate is taken at u / θ − 1."""

    def __init__(self, surrogate: Surrogate, threshold: float) -> None:
        super().__init__()
        self.surrogate = surrogate
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Potentials less the threshold to spikes, 0.0 or 1.0."""
        y: Tensor = Spike.apply(x if self.threshold == 1 else x / self.threshold, SLOPES[self.surrogate])  # type: ignore[no-untyped-call]
        return y


class ScalePerStep(nn.Module):
    """Batch norm through time (BNTT, Kim and Panda, 2021): a norm for each time step, with a scale and no shift."""

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.BatchNorm2d(channels, eps=BN_EPS) for _ in range(steps))
        for norm in self.steps:
            norm.register_parameter("bias", None)

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalise the current (B, C, h, w) of one time step."""
        y: Tensor = self.steps[step](x)
        return y


class DilatedConv2d(nn.Conv2d):
    """A convolution that computes by ``dilated_convolution`` where that is less work."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, channels, h, w)."""
        dilation = int(self.dilation[0])
        if mostly_padding(x.shape[-2], x.shape[-1], dilation):
            return dilated_convolution(x, self.weight, dilation)
        return super().forward(x)


class PaperNetwork(nn.Module):
    """A network for training, with SpikingJelly's LIF nodes for neurons (in the ANN twin, ReLU).

    The membranes live in the nodes and are put to rest by ``spikingjelly.activation_based.functional.reset_net``, which
    must be called before each ``forward``.
    """

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        self.config = config
        self.convs = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        self.nodes = nn.ModuleDict()
        table = synapses(config)
        for name, s in table.items():
            conv: nn.Conv2d | nn.ConvTranspose2d
            if s.transposed:
                conv = nn.ConvTranspose2d(s.cin, s.cout, s.kernel, stride=2, bias=s.bias)
            else:
                kind = DilatedConv2d if s.dilation > 1 else nn.Conv2d
                conv = kind(s.cin, s.cout, s.kernel, padding=s.padding, dilation=s.dilation, bias=s.bias)
            nn.init.xavier_uniform_(conv.weight, gain=2)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            self.convs[name] = conv
        normed = normed_layers(config)
        for name in neuron_layers(config):
            if config.spiking:
                self.nodes[name] = _lif(config)
                if name in normed:
                    self.norms[name] = ScalePerStep(table[name].cout, config.steps)
            else:
                # The authors' ANN has no activation between its way back up.
                self.nodes[name] = nn.ReLU(inplace=True) if name in normed else nn.Identity()

    def currents(self, name: str, x: Tensor, step: int) -> Tensor:
        """Synaptic input of a layer at one time step: convolution, then that step's batch norm if the layer has one."""
        current: Tensor = self.convs[name](x)
        return self.norms[name](current, step) if name in self.norms else current

    def one_step(self, x: Tensor, step: int, fire: Apply) -> Tensor:
        """Run the graph for one time step; the input current of the readout, as ``forward_graph`` gives it."""
        return forward_graph(self.config, x, lambda name, s: self.currents(name, s, step), fire)

    def forward(self, x_seq: Tensor) -> Tensor:
        """T input steps (T, B, C, H, W) to logits (B, classes, H, W): what the readout gathered, over T.

        The ANN twin takes (1, B, C, H, W).

        Raises
        ------
        ValueError
            If there are not T steps.
        """
        return self._run(x_seq, lambda name, current: self.nodes[name](current))

    def forward_with_spikes(self, x_seq: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, ...]]]:
        """Like ``forward``, and the output of every layer that fires: T tensors (B, C, h, w) by layer name.

        They are the tensors that the graph holds anyway, so that asking for them costs no memory in training. In the
        ANN twin they are activations.
        """
        spikes: dict[str, list[Tensor]] = {name: [] for name in self.nodes}

        def fire(name: str, current: Tensor) -> Tensor:
            out: Tensor = self.nodes[name](current)
            spikes[name].append(out)
            return out

        logits = self._run(x_seq, fire)
        return logits, {name: tuple(steps) for name, steps in spikes.items()}

    def _run(self, x_seq: Tensor, fire: Apply) -> Tensor:
        steps = self.config.steps if self.config.spiking else 1
        if len(x_seq) != steps:
            raise ValueError(f"the network takes {steps} input steps, got {len(x_seq)}")
        total = self.one_step(x_seq[0], 0, fire)
        for k in range(1, steps):
            total = total + self.one_step(x_seq[k], k, fire)
        return resize(total / steps, x_seq.shape[-2:])


def _lif(config: PaperConfig) -> nn.Module:
    node: nn.Module = neuron.LIFNode(
        tau=1 / (1 - config.keep),
        decay_input=False,
        v_threshold=config.threshold,
        v_reset=None,
        surrogate_function=Firing(config.surrogate, config.threshold),
        detach_reset=True,
    )
    return node


def firing_rates(spikes: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """Spikes for each neuron and step, by layer: scalars that a loss can push down.

    Parameters
    ----------
    spikes : mapping of T Tensors, (B, C, h, w)
        As ``PaperNetwork.forward_with_spikes`` gives them.
    """
    return {name: torch.stack([step.mean() for step in steps]).mean() for name, steps in spikes.items()}


def layer_shapes(config: PaperConfig, height: int, width: int) -> dict[str, tuple[int, int, int]]:
    """Shape (channels, h, w) of what each convolution puts out, resized and before pooling, for an input's size."""
    pyramid = [(height, width)]
    for _ in range(sum(layer.pooled for layer in LAYERS[config.kind])):
        pyramid.append((-(-pyramid[-1][0] // 2), -(-pyramid[-1][1] // 2)))
    level: dict[str, int] = {INPUT: 0}
    shapes: dict[str, tuple[int, int, int]] = {}
    for name, s in synapses(config).items():
        level[name] = level[s.reads] + s.pooled - s.transposed
        shapes[name] = (s.cout, *pyramid[level[name]])
    return shapes


def input_shapes(config: PaperConfig, height: int, width: int) -> dict[str, tuple[int, int, int]]:
    """Shape (channels, h, w) of what each convolution reads, after pooling."""
    out = layer_shapes(config, height, width)
    sizes = {name: shape[1:] for name, shape in out.items()} | {INPUT: (height, width)}
    # A convolution that is not transposed keeps the size of what it reads.
    return {name: (s.cin, *(sizes[s.reads] if s.transposed else sizes[name])) for name, s in synapses(config).items()}


def sources(config: PaperConfig) -> dict[str, tuple[tuple[str, int], ...]]:
    """For each convolution, whose output it reads and how many times over (always once)."""
    return {name: ((s.reads, 1),) for name, s in synapses(config).items()}


def layer_macs(config: PaperConfig, height: int, width: int) -> dict[str, int]:
    """Dense multiply-accumulates of each convolution in one step, padding counted as input; no pooling, no resizing."""
    inputs = input_shapes(config, height, width)
    macs = {}
    for name, s in synapses(config).items():
        # A transposed convolution spreads each cell that it reads; any other gathers for as many cells as it reads.
        _, h, w = inputs[name]
        macs[name] = s.cin * s.cout * s.kernel**2 * h * w
    return macs


def fold_bntt(network: PaperNetwork) -> dict[str, Tensor]:
    """Weights for the runtime: each step's batch norm as a scale and a shift of the convolution's output.

    Returns
    -------
    dict
        ``NAME.weight`` of each convolution, as ``Synapse.weight_shape`` has it, and ``NAME.bias`` (cout,) where it has
        one; in a spiking network ``NAME.scale`` and ``NAME.shift`` (T, cout) of each layer with batch norms.
    """
    trained = {name: value.detach().clone() for name, value in network.state_dict().items()}
    folded = {name.removeprefix("convs."): value for name, value in trained.items() if name.startswith("convs.")}
    for name in network.norms:
        steps = [f"norms.{name}.steps.{k}" for k in range(network.config.steps)]
        scale = torch.stack(
            [trained[f"{step}.weight"] / torch.sqrt(trained[f"{step}.running_var"] + BN_EPS) for step in steps]
        )
        folded[f"{name}.scale"] = scale
        folded[f"{name}.shift"] = -scale * torch.stack([trained[f"{step}.running_mean"] for step in steps])
    return folded
