"""Small streaming networks and their input, for the tests of whatever runs them."""

from __future__ import annotations

import torch
from torch import Tensor

from models.architectures.edge import EdgeConfig, EdgeDeepLab

SMALL = EdgeConfig(stem=8, stride4=8, stride8=16, pyramid=8, decoder=8, pyramid_rates=(1, 3))


def network(config: EdgeConfig, seed: int = 0) -> EdgeDeepLab:
    """A network with weights, norms and leaks that all differ from their defaults."""
    torch.manual_seed(seed)
    net = EdgeDeepLab(config)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.3, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.4)
    for name, parameter in net.named_parameters():
        if name.endswith(".w"):
            torch.nn.init.uniform_(parameter, -1.5, 1.5)
    return net.eval()


def windows(steps: int, batch: int, height: int, width: int, density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 5, (steps, batch, 2, height, width), generator=generator)
    return counts * (torch.rand(counts.shape, generator=generator) < density)
