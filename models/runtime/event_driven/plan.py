"""A network as the kernel sees it: packed weights, and for each input grid a table of layers and their memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.architectures.edge import READOUT, EdgeConfig, layer_shapes, sources, synapses
from models.runtime.lif import THRESHOLD
from models.runtime.precision import Precision, rounded, to_int8

MOST_PARTS = 4
PAD = 16
CACHE_LINE = 64
PAD_BITS = 64
LIST_PAD = 64
MOST_KERNEL = 8
MOST_LAYERS = 64

# The structures of kernel.c.
_PART = np.dtype([("layer", "i4"), ("channels", "i4"), ("shift", "i4"), ("reserved", "i4")])
SIZES = ("in_height", "in_width", "height", "width", "channels", "kernel", "stride", "dilation", "padding")
LAYER = np.dtype(
    [
        ("kind", "i4"),
        ("form", "i4"),
        *((name, "i4") for name in SIZES),
        ("in_channels", "i4"),
        ("parts", "i4"),
        ("part", _PART, (MOST_PARTS,)),
        ("fires_at", "f4"),
        ("reset", "f4"),
        ("weight", "u8"),
        ("scale", "u8"),
        ("bias", "u8"),
        ("keep", "u8"),
    ],
    align=True,
)
SLOT = np.dtype([("before", "u8"), ("after", "u8"), ("lists", "u8"), ("starts", "u8"), ("spikes", "i8")], align=True)
INPUT = np.dtype([("values", "u8"), ("active", "u8"), ("active_pitch", "i8")], align=True)
ABI = LAYER.itemsize + 1000 * SLOT.itemsize + 100_000 * INPUT.itemsize

ANALOG, SPIKING, LAST = range(3)
BYTES = 1


def supports(config: EdgeConfig) -> bool:
    """Whether the kernel can run such a network: one that spikes, within the bounds of its tables."""
    table = synapses(config)
    return (
        config.spiking
        and len(table) <= MOST_LAYERS
        and config.input_channels * table["stem"].kernel ** 2 <= 64
        and all(s.kernel**2 * s.cin <= 0xFFFF and s.kernel <= MOST_KERNEL for s in table.values())
        and all(len(reads) <= MOST_PARTS for reads in sources(config).values())
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything of one row lies, for one input grid.

    Attributes
    ----------
    height, width : int
        The input grid.
    names : tuple of str
        Layers in the order in which they run.
    shapes : tuple of (int, int, int)
        Of their membranes: channels, height, width.
    layers : structured array
        The kernel's table.
    state_offsets : uint64 array
        Bytes before each layer's membranes, (h, w, C), in one row's memory; ``state_floats`` in all.
    list_offsets, start_offsets : uint64 array
        Bytes before each layer's lists of spikes and before where those of each pixel begin; ``spike_bytes`` in all.
    padding : int
        Empty lines above and below the map of active inputs.
    active_pitch : int
        Bytes of that map for one line of the grid.
    """

    height: int
    width: int
    names: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    layers: NDArray[Any]
    state_offsets: NDArray[np.uint64]
    state_floats: int
    list_offsets: NDArray[np.uint64]
    start_offsets: NDArray[np.uint64]
    spike_bytes: int
    padding: int
    active_pitch: int


class PackedNetwork:
    """Weights as [tap][c_in][c_out], c_out padded, and the plans of the grids that were asked for.

    Parameters
    ----------
    config : EdgeConfig
    weights : mapping of Tensor
        Folded, as ``models.architectures.edge.fold_batch_norm`` gives them.
    precision : "float32", "bfloat16" or "int8"
        int8 is kept as such by all layers but the first one, whose inputs are no spikes; bfloat16 as float32.
    """

    def __init__(self, config: EdgeConfig, weights: Mapping[str, Tensor], precision: Precision = "float32") -> None:
        self.config = config
        self._arrays: dict[str, NDArray[Any]] = {}
        values = rounded(weights, precision)
        for name, reads in sources(config).items():
            for kind in ("bias", "keep"):
                self._arrays[f"{name}.{kind}"] = padded(values[f"{name}.{kind}"].reshape(-1))
            weight = values[f"{name}.weight"]
            if precision == "int8" and reads[0][0] != "input":
                weight, scale = to_int8(weights[f"{name}.weight"])
                self._arrays[f"{name}.scale"] = padded(scale)
            self._arrays[f"{name}.weight"] = padded(weight.permute(2, 3, 1, 0))
        # Clients choose the grids, so that what is kept is bounded.
        self.plan = lru_cache(maxsize=64)(self._make_plan)

    def _make_plan(self, height: int, width: int) -> Plan:
        config = self.config
        shapes = layer_shapes(config, height, width)
        reads = sources(config)
        names = tuple(synapses(config))
        layers = np.zeros(len(names), LAYER)
        for row, (name, s) in zip(layers, synapses(config).items(), strict=True):
            finest = reads[name][-1][0]
            in_height, in_width = (height, width) if finest == "input" else shapes[finest][1:]
            channels, out_height, out_width = shapes[name]
            row["kind"] = LAST if name == READOUT else ANALOG if finest == "input" else SPIKING
            sizes = (in_height, in_width, out_height, out_width, channels, s.kernel, s.stride, s.dilation, s.padding)
            for field, size in zip(SIZES, sizes, strict=True):
                row[field] = size
            row["in_channels"] = s.cin
            row["fires_at"] = row["reset"] = THRESHOLD
            if finest != "input":
                row["parts"] = len(reads[name])
                for part, (source, times) in zip(row["part"], reads[name], strict=False):
                    # A source that is read four times over is read as 2x2 cells.
                    part["layer"], part["channels"], part["shift"] = names.index(source), shapes[source][0], times == 4
            for kind in ("weight", "bias", "keep"):
                row[kind] = self._arrays[f"{name}.{kind}"].ctypes.data
            if (scale := self._arrays.get(f"{name}.scale")) is not None:
                row["form"], row["scale"] = BYTES, scale.ctypes.data
        floats = [c * h * w for c, h, w in shapes.values()]
        fire = [shape for name, shape in shapes.items() if name != READOUT] + [(0, 0, 0)]
        lists = [h * (w * c + LIST_PAD) * 2 for c, h, w in fire]
        starts = [h * (w + 1) * 4 for _, h, w in fire]
        list_bytes = -(-sum(lists) // 8) * 8
        return Plan(
            height,
            width,
            names,
            tuple(shapes[name] for name in names),
            layers,
            _starts(floats, 4),
            sum(floats),
            _starts(lists, 1),
            _starts(starts, 1) + np.uint64(list_bytes),
            list_bytes + sum(starts),
            synapses(config)["stem"].padding,
            (2 * PAD_BITS + width * config.input_channels) // 8 + 8,
        )


def padded(values: Tensor) -> NDArray[Any]:
    """An array whose last axis is filled up with zeros; it begins with a line of the cache.

    Vectors of weights that cross lines take up to 1.7 times as long.
    """
    array = values.detach().numpy()
    channels = array.shape[-1]
    shape = (*array.shape[:-1], -(-channels // PAD) * PAD)
    size = math.prod(shape) * array.itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    filled: NDArray[Any] = memory[start : start + size].view(array.dtype).reshape(shape)
    filled[..., :channels] = array
    return filled


def _starts(sizes: list[int], item: int) -> NDArray[np.uint64]:
    return np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.uint64) * np.uint64(item)
