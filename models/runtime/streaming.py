"""A trained network with its card: events of one window and a state in, a mask and the next state out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.classes import SegmentationClass
from models.encoding import InputGrid
from models.events import EventBatch, SensorSize
from models.runtime.edge import EdgeRuntime
from models.runtime.model import Backend, Mode, WindowInput, WindowSegmentation
from models.runtime.precision import Precision
from models.runtime.state import State


@dataclass(frozen=True, slots=True)
class StreamingModel:
    """A network that answers an endless stream, one step for each window.

    Attributes
    ----------
    name : str
    runtime : EdgeRuntime
    classes : tuple of SegmentationClass
    window_us : int
        Length in µs of the windows that it was trained on; others work, the further off the worse.
    card : dict
        How it was trained and what it scores.
    fingerprint : str
        As ``models.zoo.fingerprint`` gives it; empty if it does not come from a zoo.
    """

    name: str
    runtime: EdgeRuntime
    classes: tuple[SegmentationClass, ...]
    window_us: int
    card: dict[str, Any]
    fingerprint: str = ""

    @property
    def mode(self) -> Mode:
        """``streaming``: what the network has seen is carried from window to window."""
        return "streaming"

    @property
    def backend(self) -> Backend:
        """What computes it."""
        return self.runtime.backend

    @property
    def precision(self) -> Precision:
        """What its weights are rounded to."""
        return self.runtime.precision

    @property
    def fixed_order(self) -> bool:
        """Whether no bit of an answer hangs on the batch and the threads that it is computed with."""
        return self.runtime.fixed_order

    @property
    def steps(self) -> int:
        """Time steps for each window: one."""
        return 1

    @property
    def longest_side(self) -> int:
        """Longer side of the input grid that it was trained for, in cells."""
        return self.runtime.config.grid

    def grid(self, sensor: SensorSize) -> InputGrid:
        """The cells that the network sees of a sensor."""
        return InputGrid.for_sensor(sensor, self.runtime.config.grid)

    def initial_state(self, sensor: SensorSize) -> State:
        """Membranes at rest."""
        grid = self.grid(sensor)
        return self.runtime.initial_state(1, grid.height, grid.width)

    def grid_key(self, sensor: SensorSize) -> tuple[int, int]:
        """Height and width of the input grid for a sensor; windows with the same key may stand in one batch."""
        grid = self.grid(sensor)
        return grid.height, grid.width

    def leak(self, state: State, windows: int) -> State:
        """The state after so many windows that nobody shows the network: membranes only leak (``EdgeRuntime.leak``)."""
        return self.runtime.leak(state, windows)

    def segment(self, state: State, events: EventBatch, sensor: SensorSize) -> WindowSegmentation:
        """Advance one window: pure, the state given is left as it is.

        Raises
        ------
        EncodingError
            If an event lies outside the sensor.
        StateError
            If the state is not one of this network for this sensor.
        """
        return self.segment_many([WindowInput(state, events, sensor)])[0]

    def segment_many(self, inputs: Sequence[WindowInput]) -> list[WindowSegmentation]:
        """Advance a window of each of several streams, in one step of the network; the states are left as they are.

        Each new state has memory of its own. If one input is refused, none is answered.

        Raises
        ------
        EncodingError
            If an event lies outside its sensor.
        StateError
            If a state is not one of this network for its sensor.
        ValueError
            If the inputs' grids differ, or ``idle`` is negative.
        """
        return [answer for answer, _ in self.segment_with_logits(inputs)]

    def segment_with_logits(self, inputs: Sequence[WindowInput]) -> list[tuple[WindowSegmentation, Tensor]]:
        """Like ``segment_many``, and what each mask is made of: logits (1, classes, h, w), views of the batch's."""
        if not inputs:
            return []
        grids = [self.grid(item.sensor) for item in inputs]
        height, width = grids[0].height, grids[0].width
        if any((grid.height, grid.width) != (height, width) for grid in grids):
            sensors = ", ".join(sorted({str(item.sensor) for item in inputs}))
            raise ValueError(f"windows of one batch must have the same grid, not those of the sensors {sensors}")
        for item in inputs:
            self.runtime.check(item.state, 1, height, width)
        stride = self.runtime.config.output_stride
        with torch.inference_mode():
            rows = [
                (self.leak(item.state, item.idle) if item.idle else item.state, item.events, grid)
                for item, grid in zip(inputs, grids, strict=True)
            ]
            answers = []
            for item, grid, row in zip(inputs, grids, self.runtime.answer(rows), strict=True):
                mask = self.runtime.class_mask(row.logits, item.sensor.height, item.sensor.width, stride * grid.factor)
                activity = self.runtime.activity(row.spike_counts, height, width)
                answers.append((WindowSegmentation(mask, row.state, activity), row.logits))
        return answers
