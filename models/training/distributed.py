"""Several processes that train one network: started by ``torchrun``, or one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from models.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Place:
    """Which process this is, of how many, and the device that it trains on."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process scores, logs and saves."""
        return self.rank == 0


@contextmanager
def joined(device: str = "auto") -> Iterator[Place]:
    """Join the other processes of a ``torchrun``, if there are any.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda``, or ``auto``: a GPU for each process where there is one.

    Raises
    ------
    TrainingError
        If there is no such device.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    on_gpu = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise TrainingError(f"there is no device {device!r} here: use cpu or auto")
    chosen = torch.device(f"cuda:{local}") if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Place(0, 1, chosen)
        return
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Place(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()


def average_gradients(network: nn.Module, place: Place) -> None:
    """Replace every gradient by its mean over the processes."""
    if place.world == 1:
        return
    for parameter in network.parameters():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        dist.all_reduce(gradient)
        parameter.grad = gradient / place.world


def same_start(network: nn.Module, place: Place) -> None:
    """Give every process the weights of the first."""
    if place.world > 1:
        for value in network.state_dict().values():
            dist.broadcast(value, 0)


def leaders_word(value: float, place: Place) -> float:
    """The first process's value, in every process."""
    if place.world == 1:
        return value
    word = torch.tensor([value], dtype=torch.float64, device=place.device)
    dist.broadcast(word, 0)
    return float(word)
