"""What every runtime asks of the weights that it is given."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.errors import WeightsError


def check_weights(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WeightsError, naming the weight, unless exactly these are there, with these shapes, and finite."""
    if set(weights) != set(shapes):
        odd = sorted(set(weights) ^ set(shapes))
        raise WeightsError(f"the weights do not fit the network: {', '.join(odd)} missing or unknown")
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise WeightsError(f"weight {name} has shape {tuple(weights[name].shape)}, expected {shape}")
        if not torch.isfinite(weights[name]).all():
            raise WeightsError(f"weight {name} holds values that are not finite")
