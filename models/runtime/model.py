"""What every trained network that segments events offers, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.classes import SegmentationClass
from models.events import EventBatch, SensorSize
from models.runtime.activity import SpikeActivity
from models.runtime.precision import Precision
from models.runtime.state import State

Mode = Literal["streaming", "protocol"]
Backend = Literal["torch", "event-driven"]
BackendChoice = Literal["auto", "torch", "event-driven"]


@dataclass(frozen=True, slots=True)
class WindowInput:
    """One window of one stream, to be answered.

    Attributes
    ----------
    state : State
        What the network carries of the stream.
    events : EventBatch
    sensor : SensorSize
    idle : int
        Windows just before this one that nobody shows the network: the state leaks over them first.
    """

    state: State
    events: EventBatch
    sensor: SensorSize
    idle: int = 0


@dataclass(frozen=True, slots=True)
class WindowSegmentation:
    """The answer to one window.

    Attributes
    ----------
    mask : uint8 array, (sensor height, sensor width)
        Class ids.
    state : State
        What the network carries on after the window.
    activity : SpikeActivity
    """

    mask: NDArray[np.uint8]
    state: State
    activity: SpikeActivity


class SegmentationModel(Protocol):
    """A trained network with its card: events of one window and a state in, a mask and the next state out."""

    @property
    def name(self) -> str:
        """Its name in the zoo."""

    @property
    def classes(self) -> tuple[SegmentationClass, ...]:
        """The classes of its masks."""

    @property
    def window_us(self) -> int:
        """Length in µs of the windows that it was trained on."""

    @property
    def card(self) -> dict[str, Any]:
        """How it was trained and what it scores."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its settings and weights (``models.zoo.fingerprint``); empty if it does not come from a zoo."""

    @property
    def mode(self) -> Mode:
        """``streaming``: membranes are carried from window to window; ``protocol``: every window starts from rest."""

    @property
    def backend(self) -> Backend:
        """What computes it: ``torch``, every input of every layer; ``event-driven``, those alone that are not zero."""

    @property
    def precision(self) -> Precision:
        """What its weights are rounded to."""

    @property
    def fixed_order(self) -> bool:
        """Whether sums are taken in one order in any batch and on any number of threads: no bit hangs on them."""

    @property
    def steps(self) -> int:
        """Time steps that it takes for each window."""

    @property
    def longest_side(self) -> int:
        """Longer side of its input grid, in cells."""

    def initial_state(self, sensor: SensorSize) -> State:
        """The state before the first window of a stream."""

    def grid_key(self, sensor: SensorSize) -> tuple[int, int]:
        """Height and width of its input grid; windows of sensors with the same key may stand in one batch."""

    def leak(self, state: State, windows: int) -> State:
        """What it carries after so many windows that nobody shows it: closed form, next to free, no step.

        Of 0 windows, the state itself.

        Raises
        ------
        StateError
            If the state is not one of this network.
        ValueError
            If ``windows`` is negative.
        """

    def segment(self, state: State, events: EventBatch, sensor: SensorSize) -> WindowSegmentation:
        """Advance one window: pure, the state given is left as it is.

        Raises
        ------
        EncodingError
            If an event lies outside the sensor.
        StateError
            If the state is not one of this network for this sensor.
        """

    def segment_many(self, inputs: Sequence[WindowInput]) -> list[WindowSegmentation]:
        """Advance a window of each of several streams: the answers in the order of the inputs.

        Each is the one that ``segment`` gives, but for the order of sums: which ways of computing leave every bit as it
        is, :class:`models.runtime.exactness.Exactness` finds out. If one input is refused, none is answered.

        Raises
        ------
        EncodingError, StateError
            As ``segment`` does.
        ValueError
            If the inputs' grids differ, or ``idle`` is negative.
        """
