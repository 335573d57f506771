"""The explicit state of a network: what it carries from step to step, as an immutable mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from models.errors import StateError


class State(Mapping[str, Tensor]):
    """Membrane potentials by layer, each (B, C, h, w) float32; or whatever else a network carries, by name.

    A state is never changed: a step makes a new one. It can be kept, copied, compared, saved and given to another
    replica; ``step(state, x)`` always gives the same answer for it.
    """

    __slots__ = ("_membranes",)

    def __init__(self, membranes: Mapping[str, Tensor]) -> None:
        self._membranes = MappingProxyType(dict(membranes))

    def __getitem__(self, name: str) -> Tensor:
        return self._membranes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._membranes)

    def __len__(self) -> int:
        return len(self._membranes)

    def __repr__(self) -> str:
        return f"State({ {name: tuple(v.shape) for name, v in self._membranes.items()} })"

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(v.numel() * v.element_size() for v in self._membranes.values())

    def equals(self, other: State) -> bool:
        """Whether both hold the same layers with the same bits."""
        return set(self) == set(other) and all(torch.equal(v, other[name]) for name, v in self.items())


def check_state(state: State, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise StateError, naming the layer, unless the state has exactly these layers and shapes."""
    if set(state) != set(shapes):
        raise StateError(f"the state holds layers {sorted(state)}, the network has {sorted(shapes)}")
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise StateError(f"the state of layer {name} has shape {tuple(state[name].shape)}, expected {shape}")
