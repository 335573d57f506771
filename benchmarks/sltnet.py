"""SLTNet, a published spiking network for event segmentation, as a contestant: imported from a clone of its repository.

Long et al., "Efficient Event-based Semantic Segmentation with Spike-driven Lightweight Transformer-based Networks",
IROS 2025 (arXiv 2412.12843); code and weights under the MIT licence at github.com/longxianlei/SLTNet-v0.1. None of its
code is here. It answers from a voxel grid of five bins, in one time step from rest: nothing is carried on.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from benchmarks.contestants import MakeMask, Mask
from models.events import EventBatch, SensorSize

BINS = 5
CLASSES = 6
MULTIPLE = 8
FOLDER = Path("SLTNet/Network")
WEIGHTS = Path("SLTNet/SLTNet_ddd17_model_best_miou.pth")
REPOSITORY = "github.com/longxianlei/SLTNet-v0.1"

SHIM = (
    "its module files import torchsummary, IPython, timm and spikingjelly.clock_driven (gone from SpikingJelly 2), of "
    "which the network uses only trunc_normal_, torch's own: stand-ins are given at import; the layers conv3x3_1 and "
    "conv3x3_2, which its forward pass never calls, are not in its published weights and are left out; its neurons "
    "fire by a bare comparison, without the surrogate gradient that the published code computes at inference too"
)

_NEVER_CALLED = (".conv3x3_1.", ".conv3x3_2.")


class PeerError(Exception):
    """The clone is not as expected; the message says what is missing."""


class SLTNet:
    """The published network with its published weights for DDD17, on a sensor of any size.

    The sensor's rows and columns are filled up with zeros to multiples of 8, without which its branches do not meet.
    Only its final output is computed, not the early one that training uses.

    Raises
    ------
    PeerError
        If the clone has no network or weights where they are expected, or they do not load.
    """

    def __init__(self, clone: Path, sensor: SensorSize, mask: MakeMask) -> None:
        self._sensor, self._mask = sensor, mask
        self._height, self._width = (-(-side // MULTIPLE) * MULTIPLE for side in (sensor.height, sensor.width))
        self._network = load_network(clone)
        self.commit = commit_of(clone)

    def prepare(self, window: EventBatch) -> Tensor:
        """Voxel grid (1, 5, h, w), normalised over what is not zero."""
        return torch.from_numpy(voxel_grid(window, self._height, self._width)[None])

    @torch.inference_mode()
    def network(self, x: Tensor) -> Tensor:
        """Logits (1, classes, h, w)."""
        logits: Tensor = self._network(x)
        return logits

    def segment(self, window: EventBatch) -> Mask:
        """The mask."""
        logits = self.network(self.prepare(window))
        return self._mask(logits, self._height, self._width, 1)[: self._sensor.height, : self._sensor.width]

    @torch.inference_mode()
    def operations(self, window: EventBatch) -> tuple[float, float]:
        """Multiply-accumulates and accumulates of a window's convolutions.

        Those whose input is all zeros and ones accumulate where it is one; the others multiply, zero or not. What lies
        between the convolutions (attention, normalisation) is not counted.
        """
        counted = [0.0, 0.0]

        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x, weight = inputs[0], module.weight
            assert isinstance(weight, Tensor)
            transposed = isinstance(module, nn.ConvTranspose2d)
            macs = weight[0].numel() * (x.numel() if transposed else output.numel())
            if bool(((x == 0) | (x == 1)).all()):
                counted[1] += macs * float(torch.count_nonzero(x)) / x.numel()
            else:
                counted[0] += macs

        kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
        hooks = [m.register_forward_hook(count) for m in self._network.modules() if isinstance(m, kinds)]
        try:
            self.network(self.prepare(window))
        finally:
            for hook in hooks:
                hook.remove()
        return counted[0], counted[1]


def voxel_grid(events: EventBatch, height: int, width: int) -> NDArray[np.float32]:
    """Voxel grid (5, height, width) as SLTNet is fed with: ON minus OFF, linear between the bins, normalised.

    Its mean over the cells that are not zero becomes 0, their standard deviation 1; the others stay zero.
    """
    cells = height * width
    if not len(events):
        return np.zeros((BINS, height, width), np.float32)
    t = events.t - events.t[0]
    at = t * ((BINS - 1) / max(1, int(t[-1])))
    low = at.astype(np.int64)
    sign = events.p.astype(np.float64) * 2 - 1
    later = sign * (at - low)
    index = low * cells + events.y.astype(np.int64) * width + events.x
    grid = np.bincount(index, sign - later, (BINS + 1) * cells) + np.bincount(index + cells, later, (BINS + 1) * cells)
    grid = grid[: BINS * cells]
    active = np.flatnonzero(grid)
    values = grid[active]
    found = np.zeros(BINS * cells, np.float32)
    if len(active):
        found[active] = (values - values.mean()) / (values.std() or 1.0)
    return found.reshape(BINS, height, width)


def load_network(clone: Path) -> nn.Module:
    """The network in evaluation mode.

    Raises
    ------
    PeerError
        If it is not there, or does not load.
    """
    folder, weights = clone / FOLDER, clone / WEIGHTS
    for needed in (folder / "model" / "SLTNet.py", weights):
        if not needed.is_file():
            raise PeerError(f"{needed} is not there: --peer-repo takes a clone of {REPOSITORY}")
    try:
        with importable(folder):
            module = importlib.import_module("model.SLTNet")
            vars(importlib.import_module("model.module.neuron"))["spike_activation"] = fire
            network: nn.Module = module.SLTNet(classes=CLASSES, ohem=False, augment=False)
        with torch.serialization.safe_globals(_numpy_scalars()):
            stored = torch.load(weights, map_location="cpu", weights_only=True)
        values = stored["model"]
        prefix = "module."
        given = {name.removeprefix(prefix): value for name, value in values.items()}
        found = network.load_state_dict(given, strict=False)
    except (ImportError, AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise PeerError(f"SLTNet cannot be loaded from {clone}: {str(error)[:500]}") from error
    amiss = [k for k in found.missing_keys if not any(part in k for part in _NEVER_CALLED)] + found.unexpected_keys
    if amiss:
        raise PeerError(f"the weights in {weights} are not those of the network beside them: {', '.join(amiss[:5])}")
    functional.set_step_mode(network, "m")
    return network.eval()


def fire(potential: Tensor, ste: bool = False, temp: float = 1.0) -> Tensor:  # noqa: ARG001 as it is called
    """Spikes of potentials in thresholds, as 0.0 and 1.0: what SLTNet's own function gives but for rounding."""
    return torch.gt(potential, 0.5).float()


def _numpy_scalars() -> list[Any]:
    """What its file of weights holds beside tensors: the score that it reached, as a number of NumPy's."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    return [(scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """While it lasts, modules are found in a folder, with stand-ins for what they import and do not use."""

    def stand_in(name: str, **members: Any) -> types.ModuleType:
        module = types.ModuleType(name)
        vars(module).update(members)
        return module

    unused = nn.Identity
    given = {
        "torchsummary": stand_in("torchsummary", summary=None),
        "IPython": stand_in("IPython", embed=None),
        "timm": stand_in("timm"),
        "timm.models": stand_in("timm.models"),
        "timm.models.layers": stand_in(
            "timm.models.layers",
            trunc_normal_=nn.init.trunc_normal_,
            to_2tuple=lambda x: (x, x),
            DropPath=unused,
        ),
        "spikingjelly.clock_driven": stand_in("spikingjelly.clock_driven"),
        "spikingjelly.clock_driven.neuron": stand_in(
            "spikingjelly.clock_driven.neuron", MultiStepLIFNode=unused, MultiStepParametricLIFNode=unused
        ),
    }
    before = {name: sys.modules.get(name) for name in given}
    wrote = sys.dont_write_bytecode
    sys.modules.update(given)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = wrote
        sys.path.remove(str(folder))
        # Its package is called as others may be.
        for name in [name for name in sys.modules if name.split(".")[0] == "model"]:
            del sys.modules[name]
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def commit_of(clone: Path) -> str | None:
    """The commit that the clone stands at, if git can tell."""
    command = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
