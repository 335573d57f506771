"""Start a larger streaming network from a smaller one that is trained (after Net2Net, Chen et al., ICLR 2016).

The smaller network's weights fill the first channels of every layer. Nothing reads the new channels at first, so that
the larger network answers just as the smaller one does, and learns on from there.
"""

from __future__ import annotations

import torch

from models.architectures.edge import EdgeConfig, EdgeDeepLab, sources, synapses
from models.errors import TrainingError


def grow(small: EdgeDeepLab, large: EdgeDeepLab) -> None:
    """Copy a trained network into a larger one that has just been made.

    Raises
    ------
    TrainingError
        If the larger network has not the same layers, each at least as wide.
    """
    same = [(c.spiking, c.input_channels, c.readout_scale, tuple(synapses(c))) for c in (small.config, large.config)]
    if same[0] != same[1]:
        raise TrainingError("a network grows only into one with the same input, layers and kind of neurons")
    kept = {name: _kept_channels(name, small.config, large.config) for name in small.synapses}
    trained = small.state_dict()
    with torch.no_grad():
        for key, value in large.state_dict().items():
            source = trained[key]
            if value.ndim == 0:
                value.copy_(source)
                continue
            old = source.shape[0]
            if value.ndim == 4 and key.startswith("synapses"):
                # Old channels read old ones alone; new ones keep their random start.
                value[:old] = 0
                value[:old, kept[key.split(".")[1]]] = source
            else:
                value[:old] = source


def _kept_channels(name: str, small: EdgeConfig, large: EdgeConfig) -> list[int]:
    """Where a layer's old input channels stand among its new ones."""
    if name == "stem":
        return list(range(small.input_channels))
    narrow, wide = synapses(small), synapses(large)
    kept: list[int] = []
    offset = 0
    for source, _ in sources(small)[name]:
        if wide[source].cout < narrow[source].cout:
            raise TrainingError(
                f"layer {source} has {narrow[source].cout} channels and cannot shrink to {wide[source].cout}"
            )
        kept += range(offset, offset + narrow[source].cout)
        offset += wide[source].cout
    return kept
