"""A network of the zoo as the start of a training run, or as its teacher: ``--grow-from zoo:edge-l``.

Its batch norms are folded into its weights. Unfolded, each norm passes its input on as it is; before the first update
it adopts the statistics of a first batch, with a scale and a shift that undo them, so that the network learns on from
where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models import zoo
from models.architectures.edge import BN_EPS, READOUT, EdgeDeepLab
from models.errors import ModelsError, TrainingError
from models.runtime.streaming import StreamingModel

SCHEME = "zoo:"


def load_shipped(name: str) -> tuple[EdgeDeepLab, dict[str, Any]]:
    """A streaming network of the zoo as one that can be trained, in evaluation mode, and how it was trained.

    Raises
    ------
    TrainingError
        If the zoo has no streaming network of this name.
    """
    try:
        model = zoo.load(name)
    except ModelsError as error:
        raise TrainingError(f"{SCHEME}{name}: {error}") from error
    return unfold(model), model.card["training"]


def unfold(model: StreamingModel) -> EdgeDeepLab:
    """The trainable network, in evaluation mode, that ``fold_batch_norm`` folds to this model."""
    network = EdgeDeepLab(model.runtime.config)
    folded = model.runtime.weights
    values: dict[str, Tensor] = {}
    for name in network.synapses:
        weight, bias = folded[f"{name}.weight"], folded[f"{name}.bias"]
        if model.runtime.config.spiking:
            keep = folded[f"{name}.keep"]
            values[f"neurons.{name}.w"] = -torch.logit(keep)
        if name == READOUT:
            scale = 1 - keep.flatten() if model.runtime.config.spiking else torch.ones(len(weight))
            values[f"synapses.{name}.weight"] = weight / scale[:, None, None, None]
            values[f"synapses.{name}.bias"] = bias / scale
        else:
            values |= {f"synapses.{name}.0.weight": weight, f"synapses.{name}.1.bias": bias}
            values[f"synapses.{name}.1.running_var"] = torch.full_like(bias, 1 - BN_EPS)
    network.load_state_dict(network.state_dict() | values)
    return network.eval()


@contextmanager
def adopting_statistics(network: nn.Module) -> Iterator[None]:
    """While it lasts, each batch norm makes the statistics of its input its own, and what it gives stays the same."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(_adopt) for norm in norms]
    training = [norm.training for norm in norms]
    for norm in norms:
        norm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for norm, hook, before in zip(norms, hooks, training, strict=True):
            hook.remove()
            norm.train(before)


def _adopt(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    channel = inputs[0].ndim - 3
    others = [axis for axis in range(inputs[0].ndim) if axis != channel]
    variance, mean = torch.var_mean(inputs[0], others, correction=0)
    # What it multiplies by and adds, seen as one scale and one shift.
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(scale * torch.sqrt(variance + norm.eps))
    norm.bias.copy_(shift + mean * scale)
