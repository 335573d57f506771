"""Frame networks that can be differentiated, a spiking one through its surrogate gradients, and an attack by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.architectures.paper import Firing, PaperConfig, forward_graph, normed_layers, resize, synapses
from models.classes import UNLABELLED
from models.coding import FRAME_MEAN, InputCoding, direct_code, window_generator
from models.runtime.protocol import FrameModel


class FrameNetwork(Protocol):
    """A network that sees pictures and can be differentiated, a spiking one through its surrogate gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """Colours (B, 3, H, W) in [0, 1] to logits (B, classes, h, w); the same answer for the same input."""
        ...


class PaperFrames:
    """A paper network with folded weights over frames, differentiable from end to end.

    It answers as ``models.runtime.protocol.FrameModel`` does. Spikes have the surrogate derivative of the network's
    training; the Poisson code, which draws the same chances for every picture, that of its mean, the identity.

    Parameters
    ----------
    config : PaperConfig
    weights : mapping of Tensor
        As ``models.architectures.paper.fold_bntt`` gives them.
    coding : InputCoding
        Of frames.
    """

    def __init__(self, config: PaperConfig, weights: Mapping[str, Tensor], coding: InputCoding) -> None:
        self.config = config
        self.coding = coding
        self._weights = weights
        self._synapses = synapses(config)
        self._fire = Firing(config.surrogate, config.threshold)

    def forward(self, x: Tensor) -> Tensor:
        """Colours (B, 3, H, W) in [0, 1], of the network's own size, to logits (B, classes, H, W)."""
        steps = self.config.steps if self.config.spiking else 1
        x_seq = self._code(x - torch.tensor(FRAME_MEAN)[:, None, None] / 255, steps)
        membranes: dict[str, Tensor] = {}
        total = self._step(x_seq[0], 0, membranes)
        for k in range(1, steps):
            total = total + self._step(x_seq[k], k, membranes)
        return resize(total / steps, x.shape[-2:])

    def _code(self, x: Tensor, steps: int) -> Tensor:
        if self.coding.code != "poisson":
            return direct_code(x, steps)
        chances = torch.rand((steps, 1, *x.shape[1:]), generator=window_generator(self.coding.seed, 0))
        drawn = (chances < x.abs()).to(x.dtype) * x.sign()
        return drawn.detach() + (x - x.detach())

    def _step(self, x: Tensor, step: int, membranes: dict[str, Tensor]) -> Tensor:
        """Input current of the readout; the membranes are replaced."""
        normed = normed_layers(self.config)

        def synapse(name: str, spikes: Tensor) -> Tensor:
            s = self._synapses[name]
            weight, bias = self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
            if s.transposed:
                return F.conv_transpose2d(spikes, weight, bias, stride=2)
            current = F.conv2d(spikes, weight, bias, padding=s.padding, dilation=s.dilation)
            if not (self.config.spiking and name in normed):
                return current
            scale, shift = (self._weights[f"{name}.{key}"][step].reshape(-1, 1, 1) for key in ("scale", "shift"))
            return current * scale + shift

        def fire(name: str, current: Tensor) -> Tensor:
            if not self.config.spiking:
                return current.relu() if name in normed else current
            h = current + self.config.keep * membranes[name] if name in membranes else current
            spikes: Tensor = self._fire(h - self.config.threshold)
            # The reset is detached, as in training.
            membranes[name] = h - self.config.threshold * spikes.detach()
            return spikes

        return forward_graph(self.config, x, synapse, fire)


def fgsm(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    epsilon: float,
    *,
    lowest: float = 0.0,
    highest: float = 1.0,
) -> Tensor:
    """The fast gradient sign method (Goodfellow, Shlens and Szegedy, ICLR 2015): ``clip(x + ε · sign(∂L/∂x))``.

    The loss is the cross-entropy over the labelled pixels, the logits made bilinearly as large as the labels. A spiking
    network is attacked through the surrogate gradients that it was trained with.

    Parameters
    ----------
    forward : callable
        ``x`` to logits (B, classes, h, w). The input may be anything that it takes: frames, or polarity counts
        (T, B, 2, H, W) of a stream.
    x : Tensor
        Left as it is.
    target : int64 Tensor, (B, H, W)
        Class ids, ``UNLABELLED`` where there are none.
    epsilon : float
        Largest change of a value.
    lowest, highest : float
        Range of the input.

    Returns
    -------
    Tensor
        Of the shape of ``x``, detached.
    """
    with torch.enable_grad():
        attacked = x.detach().clone().requires_grad_()
        logits = F.interpolate(forward(attacked), size=target.shape[-2:], mode="bilinear", align_corners=False)
        # Summed, so that no picture's gradient depends on the others of its batch.
        loss = F.cross_entropy(logits, target, ignore_index=UNLABELLED, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
    return (x + epsilon * gradient.sign()).clamp(lowest, highest).detach()


def frame_network(model: FrameModel) -> PaperFrames:
    """A frame network of the zoo in a form that can be differentiated."""
    return PaperFrames(model.runtime.config, model.runtime._weights, model.coding)
