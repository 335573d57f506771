"""A trained network with its card: events of one window and a state in, a mask and the next state out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from models.architectures.edge import class_mask
from models.classes import SegmentationClass
from models.encoding import InputGrid, polarity_counts
from models.events import EventBatch, SensorSize
from models.runtime.edge import EdgeRuntime
from models.runtime.model import Mode, WindowSegmentation
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
    """

    name: str
    runtime: EdgeRuntime
    classes: tuple[SegmentationClass, ...]
    window_us: int
    card: dict[str, Any]

    @property
    def mode(self) -> Mode:
        """``streaming``: what the network has seen is carried from window to window."""
        return "streaming"

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

    def segment(self, state: State, events: EventBatch, sensor: SensorSize) -> WindowSegmentation:
        """Advance one window: pure, the state given is left as it is.

        Raises
        ------
        EncodingError
            If an event lies outside the sensor.
        StateError
            If the state is not one of this network for this sensor.
        """
        grid = self.grid(sensor)
        x = torch.from_numpy(polarity_counts(events, grid, self.runtime.config.count_clip))[None]
        result = self.runtime.step(state, x)
        with torch.inference_mode():
            mask = class_mask(
                result.logits, sensor.height, sensor.width, self.runtime.config.output_stride * grid.factor
            )
        activity = self.runtime.activity(result.spike_counts, 0, grid.height, grid.width)
        return WindowSegmentation(mask, result.state, activity)
