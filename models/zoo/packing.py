"""Weights of the paper's networks, made small: int8 convolutions, in files that each stay below a limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from models.architectures.paper import PaperConfig, synapses
from models.errors import WeightsError
from models.runtime.precision import from_int8, to_int8

SHARD_BYTES = 7_500_000
"""Most bytes of tensors in one file; with its header a file stays below 8 MB."""


def pack(config: PaperConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round the convolutions to int8, one scale for each output channel (``models.runtime.precision.to_int8``).

    Biases and batch norms are kept in float32.

    Parameters
    ----------
    config : PaperConfig
    weights : mapping of Tensor
        As ``models.architectures.paper.fold_bntt`` gives them.

    Returns
    -------
    dict
        ``NAME.weight`` int8 and ``NAME.weight.scale`` float32 (cout,); everything else as it was.
    """
    packed: dict[str, Tensor] = {}
    axes = _output_axes(config)
    for name, tensor in weights.items():
        if name not in axes:
            packed[name] = tensor.detach().to(torch.float32).contiguous()
            continue
        packed[name], packed[f"{name}.scale"] = to_int8(tensor, axes[name])
    return packed


def unpack(config: PaperConfig, packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 weights from what ``pack`` gives.

    Raises
    ------
    WeightsError
        If a convolution or its scale is missing, or not of the kind that ``pack`` gives.
    """
    axes = _output_axes(config)
    weights = {
        name: tensor for name, tensor in packed.items() if name not in axes and name.removesuffix(".scale") not in axes
    }
    for name, axis in axes.items():
        steps, scale = packed.get(name), packed.get(f"{name}.scale")
        if steps is None or scale is None:
            raise WeightsError(f"weight {name} or its scale is missing")
        if steps.dtype != torch.int8 or steps.ndim != 4 or scale.shape != (steps.shape[axis],):
            raise WeightsError(f"weight {name} and its scale do not go together")
        weights[name] = from_int8(steps, scale, axis)
    return weights


def split(tensors: Mapping[str, Tensor], limit: int = SHARD_BYTES) -> list[dict[str, Tensor]]:
    """Deal tensors out to shards of at most ``limit`` bytes each, in their order.

    A tensor larger than that is cut along its first axis into parts named ``NAME@0``, ``NAME@1``, …, of at least one
    row each.
    """
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        for key, part in _parts(name, tensor, limit):
            size = _nbytes(part)
            if shards[-1] and used + size > limit:
                shards.append({})
                used = 0
            shards[-1][key] = part.contiguous()
            used += size
    return shards


def _parts(name: str, tensor: Tensor, limit: int) -> list[tuple[str, Tensor]]:
    if _nbytes(tensor) <= limit:
        return [(name, tensor)]
    rows = max(1, limit // _nbytes(tensor[:1]))
    return [(f"{name}@{k}", tensor[start : start + rows]) for k, start in enumerate(range(0, len(tensor), rows))]


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def join(shards: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that ``split`` dealt out.

    Raises
    ------
    WeightsError
        If parts of a tensor are missing in between, or do not fit together.
    """
    whole: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for shard in shards:
        for key, tensor in shard.items():
            name, cut, number = key.partition("@")
            if cut:
                parts.setdefault(name, {})[int(number)] = tensor
            else:
                whole[name] = tensor
    for name, numbered in parts.items():
        if sorted(numbered) != list(range(len(numbered))):
            raise WeightsError(f"weight {name} lacks a part: there are {sorted(numbered)}")
        try:
            whole[name] = torch.cat([numbered[k] for k in range(len(numbered))])
        except RuntimeError as error:
            raise WeightsError(f"the parts of weight {name} do not fit together: {error}") from error
    return whole


def _output_axes(config: PaperConfig) -> dict[str, int]:
    """Which axis of each convolution's weight counts its output channels."""
    return {f"{name}.weight": int(s.transposed) for name, s in synapses(config).items()}
