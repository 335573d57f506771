"""Spiking-DeepLab as the paper has it: Kim, Chough and Panda, arXiv 2110.07742, network ``dl-vgg9``.

Every answer takes T steps from rest, and each step has a batch norm of its own (BNTT), which ties the network to T: it
cannot run an endless stream. It is here as the reference that the streaming networks are compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

KEEP = 0.99
BN_EPS = 1e-4


@dataclass(frozen=True, slots=True)
class PaperConfig:
    """Shape of the paper's Spiking-DeepLab.

    Attributes
    ----------
    classes : int
        6 for DDD17, 21 for VOC2012.
    input_channels : int
        2 event channels for DDD17, 3 colours for VOC2012.
    steps : int
        T; each step has its own batch norm.
    spiking : bool
        False gives the ANN twin: ReLU, one pass, no batch norm.
    """

    classes: int = 6
    input_channels: int = 2
    steps: int = 20
    spiking: bool = True


@dataclass(frozen=True, slots=True)
class PaperLayer:
    """A 3x3 convolution without bias, and whether an average pooling (3, stride 2) follows its neurons."""

    name: str
    channels: int
    dilation: int = 1
    pooled: bool = False


LAYERS = (
    PaperLayer("conv1", 64),
    PaperLayer("conv2", 64, pooled=True),
    PaperLayer("conv3", 128),
    PaperLayer("conv4", 128, pooled=True),
    PaperLayer("conv5", 256),
    PaperLayer("conv6", 256, dilation=2),
    PaperLayer("conv7", 256, dilation=2),
    PaperLayer("atrous", 1024, dilation=12),
)
SCORE = "score"


class SlopedStep(torch.autograd.Function):
    """Heaviside forward; backward ``0.3 · max(0, 1 − |u − 1|)`` at u = x + 1, the paper's linear surrogate."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        x: Tensor = ctx.saved_tensors[0]
        return grad * 0.3 * (1 - x.abs()).clamp_min(0)


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


class PaperDeepLab(nn.Module):
    """The network, with SpikingJelly's LIF nodes for neurons.

    Its membranes live in the nodes and are put to rest by ``spikingjelly.activation_based.functional.reset_net``.
    """

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        self.config = config
        self.convs = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        self.nodes = nn.ModuleDict()
        channels = config.input_channels
        for layer in LAYERS:
            conv = nn.Conv2d(channels, layer.channels, 3, padding=layer.dilation, dilation=layer.dilation, bias=False)
            nn.init.xavier_uniform_(conv.weight, gain=2)
            self.convs[layer.name] = conv
            channels = layer.channels
            if config.spiking:
                self.norms[layer.name] = ScalePerStep(channels, config.steps)
                self.nodes[layer.name] = neuron.LIFNode(
                    tau=1 / (1 - KEEP),
                    decay_input=False,
                    v_threshold=1.0,
                    v_reset=None,
                    surrogate_function=SlopedStep.apply,
                    detach_reset=True,
                )
        score = nn.Conv2d(channels, config.classes, 1, bias=False)
        nn.init.xavier_uniform_(score.weight, gain=2)
        self.convs[SCORE] = score

    def currents(self, name: str, x: Tensor, step: int) -> Tensor:
        """Synaptic input of a layer at one time step: convolution, then that step's batch norm."""
        current: Tensor = self.convs[name](x)
        return self.norms[name](current, step) if name in self.norms else current

    def one_step(self, x: Tensor, step: int, fire: Callable[[str, Tensor], Tensor]) -> Tensor:
        """Run the graph for one time step; the input current of the score layer, (B, classes, h, w) at stride 4."""
        for layer in LAYERS:
            x = fire(layer.name, self.currents(layer.name, x, step))
            if layer.pooled:
                x = F.avg_pool2d(x, 3, 2, 1)
        score: Tensor = self.convs[SCORE](x)
        return score

    def forward(self, x_seq: Tensor) -> Tensor:
        """T input steps (T, B, C, H, W) to logits (B, classes, H, W): what the score layer gathered, over T.

        The ANN twin takes (1, B, C, H, W).
        """
        if self.config.spiking:
            total = (
                torch.stack(
                    [self.one_step(x, k, lambda name, current: self.nodes[name](current)) for k, x in enumerate(x_seq)]
                ).sum(0)
                / self.config.steps
            )
        else:
            total = self.one_step(x_seq[0], 0, lambda _, current: F.relu(current))
        return F.interpolate(total, size=x_seq.shape[-2:], mode="bilinear", align_corners=True)
