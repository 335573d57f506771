"""A state as named arrays, bit for bit, for whoever keeps it in a file or hands it to another replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import StateError
from models.runtime.state import State

NHWC = "@nhwc"
"""Ends the name of a (B, h, w, C) array whose tensor is (B, C, h, w) with its channels last in memory."""

_DTYPES = (np.dtype(np.float32), np.dtype(np.int64))


def state_to_arrays(state: State) -> dict[str, NDArray[Any]]:
    """Contiguous, read-only arrays that share the state's memory, but for tensors whose memory has gaps.

    How a tensor lies in memory is kept with it, since it may decide in which order sums are taken.

    Raises
    ------
    StateError
        If a tensor is neither float32 nor int64.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in state.items():
        if tensor.dtype not in (torch.float32, torch.int64):
            raise StateError(f"the state of layer {name} is of {tensor.dtype}, which is not kept")
        last = _has_channels_last(tensor)
        array = (tensor.permute(0, 2, 3, 1) if last else tensor.contiguous()).numpy()
        # A state is never changed.
        array.flags.writeable = False
        arrays[name + NHWC if last else name] = array
    return arrays


def _has_channels_last(tensor: Tensor) -> bool:
    # By its strides: of a single cell, is_contiguous() says yes to both layouts.
    if tensor.ndim != 4 or tensor.numel() == 0:
        return False
    _, channels, height, width = tensor.shape
    return tensor.stride() == (channels * height * width, 1, channels * width, channels)


def state_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> State:
    """The state that ``state_to_arrays`` took apart.

    An array with memory of its own is not copied if it may be written to: it is the state's from then on. Others are
    copied, so that no buffer which holds more than the state is kept alive.

    Raises
    ------
    StateError
        If an array is neither float32 nor int64, has another number of axes than its name says, holds values that are
        not finite, or if a name stands twice.
    """
    membranes: dict[str, Tensor] = {}
    for key, array in arrays.items():
        name = key.removesuffix(NHWC)
        if name in membranes:
            raise StateError(f"the state of layer {name} stands twice")
        membranes[name] = _to_tensor(name, array, channels_last=name != key)
    return State(membranes)


def _to_tensor(name: str, array: NDArray[Any], *, channels_last: bool) -> Tensor:
    if array.dtype not in _DTYPES:
        raise StateError(f"the state of layer {name} is of {array.dtype}, expected float32 or int64")
    if channels_last and array.ndim != 4:
        raise StateError(f"the state of layer {name} has {array.ndim} axes, expected 4: (B, h, w, C)")
    if not np.isfinite(array).all():
        raise StateError(f"the state of layer {name} holds values that are not finite")
    own = array.flags.owndata and array.flags.writeable
    values = np.ascontiguousarray(array) if own else np.array(array, order="C")
    # From a flat view, the strides of axes of one cell come out as torch's own too.
    tensor = torch.from_numpy(values.reshape(-1)).reshape(array.shape)
    return tensor.permute(0, 3, 1, 2) if channels_last else tensor
