"""Weights of less than 32 bits: what they are rounded to. Biases, leaks and membranes stay float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

LARGEST = 127


def to_int8(weight: Tensor, axis: int = 0) -> tuple[Tensor, Tensor]:
    """Round a convolution's weights to int8, symmetric, with one scale for each output channel.

    A weight comes back within half a scale, that is within 1/254 of its channel's largest magnitude (Krishnamoorthi,
    arXiv 1806.08342, section 2.2, with the range −127 … 127).

    Parameters
    ----------
    weight : Tensor
        Of four axes.
    axis : int
        Which one counts the output channels.

    Returns
    -------
    int8 Tensor of the weight's shape, float32 Tensor (channels,)
        Their product is the rounded weight; the scale of a channel of zeros is 0.
    """
    weight = weight.detach().to(torch.float32)
    scale = weight.abs().amax(dim=[other for other in range(weight.ndim) if other != axis]) / LARGEST
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    steps = (weight / along(divisor, axis)).round().clamp(-LARGEST, LARGEST)
    return steps.to(torch.int8).contiguous(), scale


def from_int8(steps: Tensor, scale: Tensor, axis: int = 0) -> Tensor:
    """Float32 weights from what ``to_int8`` gives."""
    return steps.to(torch.float32) * along(scale, axis)


def along(values: Tensor, axis: int) -> Tensor:
    """A vector as a tensor of four axes, all but one of length 1."""
    shape = [1] * 4
    shape[axis] = -1
    return values.reshape(shape)


def rounded(weights: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """Float32 weights with the values that a precision has; each ``NAME.weight`` is rounded, all else stays.

    Parameters
    ----------
    weights : mapping of Tensor
        Folded, output channels first.
    precision : "float32", "bfloat16" or "int8"
        bfloat16 is rounded to nearest even.
    """
    return {name: _rounded(w, precision) if name.endswith(".weight") else w for name, w in weights.items()}


def _rounded(weight: Tensor, precision: Precision) -> Tensor:
    match precision:
        case "float32":
            return weight
        case "bfloat16":
            return weight.to(torch.bfloat16).to(torch.float32)
        case "int8":
            return from_int8(*to_int8(weight))
