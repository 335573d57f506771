"""Tensors (B, C, h, w) whose memory is (B, h, w, C), as the kernel reads and writes them."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(tensor: Tensor) -> Tensor:
    """The tensor with its channels last in memory; a copy where it lies otherwise."""
    _, channels, height, width = tensor.shape
    if tensor.stride() == (channels * height * width, 1, channels * width, channels):
        return tensor
    return tensor.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def empty(batch: int, shape: tuple[int, int, int]) -> Tensor:
    """Room for a layer (channels, height, width) of each row."""
    channels, height, width = shape
    return torch.empty(batch, height, width, channels).permute(0, 3, 1, 2)
