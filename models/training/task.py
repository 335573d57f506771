"""What the training loop asks of a task: a network, batches, a loss, and a score on held-out data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LossPart:
    """One part of a loss: its name, its weight, and its value before that."""

    name: str
    weight: float
    value: Tensor


@dataclass(frozen=True, slots=True)
class Score:
    """Mean IoU on held-out data, and what else a report says of it."""

    miou: float
    report: dict[str, Any]


class Batches(Protocol):
    """Batches without end, of the size that the run's progress asks for."""

    def __iter__(self) -> Iterator[Any]: ...

    def advance(self, progress: float) -> bool:
        """Go over to the phase that ``progress`` in [0, 1) belongs to; true if it is a new one."""


class Task(Protocol):
    """A network and what it learns."""

    def make_network(self) -> nn.Module: ...

    def describe(self) -> dict[str, Any]: ...

    def batches(self, start: int) -> AbstractContextManager[Batches]: ...

    def rest(self, network: Any) -> None: ...

    def grow(self, small: nn.Module, large: nn.Module) -> None: ...

    def teach_with(self, teacher: nn.Module) -> None: ...

    def loss(self, network: Any, batch: Any, progress: float) -> list[LossPart]: ...

    def score(self, network: Any) -> Score: ...

    def finish(self, network: Any, score: Score) -> None: ...
