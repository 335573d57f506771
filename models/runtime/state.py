"""The explicit state of a network: what it carries from step to step, as an immutable mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def gather(states: Sequence[State]) -> State:
    """One state with the rows of several, which have the same layers and shapes; of a single one, itself."""
    if len(states) == 1:
        return states[0]
    return State({name: torch.cat([state[name] for state in states]) for name in states[0]})


def scatter(state: State, rows: int) -> list[State]:
    """A state of its own for each row; of a single row, the state itself."""
    if rows == 1:
        return [state]
    # Views would keep the whole batch in memory for as long as one of its rows is kept.
    return [State({name: v[row : row + 1].clone() for name, v in state.items()}) for row in range(rows)]


def check_state(state: State, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> None:
    """Raise StateError, naming the layer, unless the state has exactly these layers and shapes, all of the dtype."""
    if set(state) != set(shapes):
        raise StateError(f"the state holds layers {sorted(state)}, the network has {sorted(shapes)}")
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise StateError(f"the state of layer {name} has shape {tuple(state[name].shape)}, expected {shape}")
        if state[name].dtype != dtype:
            raise StateError(f"the state of layer {name} is of {state[name].dtype}, expected {dtype}")


def check_windows(windows: int) -> None:
    """Raise ValueError unless a state can leak over so many windows."""
    if windows < 0:
        raise ValueError(f"a state cannot leak over {windows} windows")
