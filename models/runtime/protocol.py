"""Trained networks of the paper's protocol with their cards: every answer takes T steps from rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.classes import SegmentationClass
from models.coding import (
    InputCoding,
    Source,
    cells_64,
    direct_code,
    frame_input,
    history_code,
    poisson_code,
    window_generator,
)
from models.events import EventBatch, SensorSize
from models.runtime.activity import SpikeActivity
from models.runtime.model import Mode, WindowSegmentation
from models.runtime.paper import PaperRuntime
from models.runtime.state import State, check_state

WINDOW = "window"
"""State of the Poisson code: number of the window, (1,) int64, whose chances are drawn next."""

HISTORY = "history"
"""State of the target history: polarity counts of the last T windows, (T, 2, height, width), oldest first."""


@dataclass(frozen=True, slots=True)
class ProtocolModel:
    """A network that answers each window of events by T steps from rest.

    What it carries from window to window is no membrane but what its coding needs: a count of windows, so that each is
    coded with chances of its own, or the last T windows, or nothing. The same state and events give the same answer.

    Attributes
    ----------
    name : str
    runtime : PaperRuntime
    coding : InputCoding
    classes : tuple of SegmentationClass
    window_us : int
        Length in µs of the windows that it was trained on.
    card : dict
        How it was trained and what it scores.

    Raises
    ------
    ValueError
        If the coding or the classes do not fit the network.
    """

    name: str
    runtime: PaperRuntime
    coding: InputCoding
    classes: tuple[SegmentationClass, ...]
    window_us: int
    card: dict[str, Any]

    def __post_init__(self) -> None:
        _check(self.runtime, self.coding, self.classes, "events", channels=2)

    @property
    def mode(self) -> Mode:
        """``protocol``: no membrane outlives an answer."""
        return "protocol"

    @property
    def steps(self) -> int:
        """Time steps for one answer: T, or 1 in an ANN twin."""
        return self.runtime.steps

    @property
    def longest_side(self) -> int:
        """Longer side of the input grid, in cells; the grid is the same for every sensor."""
        return max(self.coding.height, self.coding.width)

    def initial_state(self, sensor: SensorSize) -> State:  # noqa: ARG002 - the grid is the same for every sensor
        """Before the first window; the windows of a history before it count as ones without events."""
        return State({name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in self._state_layout().items()})

    def segment(self, state: State, events: EventBatch, sensor: SensorSize) -> WindowSegmentation:
        """Answer one window: pure, the state given is left as it is.

        Raises
        ------
        EncodingError
            If an event lies outside the sensor.
        StateError
            If the state is not one of this network.
        """
        counts = torch.from_numpy(cells_64(events, sensor, self.coding.height, self.coding.width))
        return self.segment_cells(state, counts, sensor)

    def segment_cells(self, state: State, counts: Tensor, sensor: SensorSize) -> WindowSegmentation:
        """Like ``segment``, for a window whose counts (2, height, width) of the input's cells are known already."""
        check_state(state, {name: shape for name, (shape, _) in self._state_layout().items()})
        match self.coding.code:
            case "poisson":
                generator = window_generator(self.coding.seed, int(state[WINDOW]))
                x_seq = poisson_code(self.coding.normalise(counts), self.steps, generator)
                after = State({WINDOW: state[WINDOW] + 1})
            case "direct":
                x_seq = direct_code(self.coding.normalise(counts), self.steps)
                after = state
            case "history":
                history = torch.cat([state[HISTORY][1:], counts[None]])
                x_seq = history_code(self.coding.normalise(history))
                after = State({HISTORY: history})
        mask, activity = _answer(self.runtime, self.coding, x_seq, sensor.height, sensor.width)
        return WindowSegmentation(mask, after, activity)

    def _state_layout(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        match self.coding.code:
            case "poisson":
                return {WINDOW: ((1,), torch.int64)}
            case "direct":
                return {}
            case "history":
                return {HISTORY: ((self.steps, 2, self.coding.height, self.coding.width), torch.float32)}


@dataclass(frozen=True, slots=True)
class FrameModel:
    """A network that segments single frames by T steps from rest.

    Attributes
    ----------
    name : str
    runtime : PaperRuntime
    coding : InputCoding
    classes : tuple of SegmentationClass
    card : dict
        How it was trained and what it scores.

    Raises
    ------
    ValueError
        If the coding or the classes do not fit the network.
    """

    name: str
    runtime: PaperRuntime
    coding: InputCoding
    classes: tuple[SegmentationClass, ...]
    card: dict[str, Any]

    def __post_init__(self) -> None:
        _check(self.runtime, self.coding, self.classes, "frames", channels=3)

    @property
    def steps(self) -> int:
        """Time steps for one answer: T, or 1 in an ANN twin."""
        return self.runtime.steps

    def segment_frame(self, rgb: NDArray[np.uint8]) -> WindowSegmentation:
        """Segment one frame, uint8 (H, W, 3).

        The mask has the frame's size, and the state is empty. The same frame always gives the same answer.

        Raises
        ------
        EncodingError
            If it is not an RGB frame of bytes.
        """
        x = frame_input(rgb, self.coding.height, self.coding.width)
        if self.coding.code == "poisson":
            x_seq = poisson_code(x, self.steps, window_generator(self.coding.seed, 0))
        else:
            x_seq = direct_code(x, self.steps)
        mask, activity = _answer(self.runtime, self.coding, x_seq, rgb.shape[0], rgb.shape[1])
        return WindowSegmentation(mask, State({}), activity)


def _check(
    runtime: PaperRuntime, coding: InputCoding, classes: tuple[SegmentationClass, ...], source: Source, channels: int
) -> None:
    if coding.source != source:
        raise ValueError(f"the coding is of {coding.source}, not of {source}")
    if runtime.config.input_channels != channels:
        raise ValueError(f"{source} have {channels} channels, the network reads {runtime.config.input_channels}")
    if coding.code != "direct" and not runtime.config.spiking:
        raise ValueError(f"an ANN twin sees one picture once: its code must be direct, not {coding.code}")
    if len(classes) != runtime.config.classes:
        raise ValueError(f"the network has {runtime.config.classes} classes, {len(classes)} are named")


def _answer(
    runtime: PaperRuntime, coding: InputCoding, x_seq: Tensor, height: int, width: int
) -> tuple[NDArray[np.uint8], SpikeActivity]:
    """Mask of height x width, and activity, from input steps (T, C, h, w)."""
    run = runtime.run(x_seq[:, None])
    mask = picture_mask(runtime.logits(run.state, coding.height, coding.width), height, width)
    analog = coding.code != "poisson"
    return mask, runtime.activity(run, 0, coding.height, coding.width, analog_input=analog)


def picture_mask(logits: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """Class ids (height, width) of a picture, from logits (1, classes, h, w) at the cells of a network's input."""
    full = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    return full[0].argmax(0).to(torch.uint8).numpy()
