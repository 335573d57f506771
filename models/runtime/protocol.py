"""Trained networks of the paper's protocol with their cards: every answer takes T steps from rest."""

from __future__ import annotations

from collections.abc import Sequence
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
from models.errors import StateError
from models.events import EventBatch, SensorSize
from models.runtime.activity import SpikeActivity
from models.runtime.model import Backend, Mode, WindowInput, WindowSegmentation
from models.runtime.paper import PaperRuntime
from models.runtime.precision import Precision
from models.runtime.state import State, check_state, check_windows

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
    fingerprint : str
        As ``models.zoo.fingerprint`` gives it; empty if it does not come from a zoo.

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
    fingerprint: str = ""

    def __post_init__(self) -> None:
        _check(self.runtime, self.coding, self.classes, "events", channels=2)

    @property
    def mode(self) -> Mode:
        """``protocol``: no membrane outlives an answer."""
        return "protocol"

    @property
    def backend(self) -> Backend:
        """What computes it."""
        return self.runtime.backend

    @property
    def precision(self) -> Precision:
        """What its weights are rounded to, in the files that they are kept in."""
        return "int8"

    @property
    def fixed_order(self) -> bool:
        """Whether no bit of an answer hangs on the threads that it is computed on."""
        return False

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
        shapes, dtype = self._state_layout()
        return State({name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()})

    def grid_key(self, sensor: SensorSize) -> tuple[int, int]:  # noqa: ARG002 - the grid is the same for every sensor
        """Height and width of the input grid."""
        return self.coding.height, self.coding.width

    def leak(self, state: State, windows: int) -> State:
        """The state after so many windows that nobody shows the network.

        The windows are counted, and those of a history are empty: the same state as after as many empty windows.

        Raises
        ------
        StateError
            If the state is not one of this network.
        ValueError
            If ``windows`` is negative.
        """
        check_windows(windows)
        self._check_state(state)
        if windows == 0 or self.coding.code == "direct":
            return state
        if self.coding.code == "poisson":
            return State({WINDOW: state[WINDOW] + windows})
        history = state[HISTORY]
        forgotten = min(windows, len(history))
        return State({HISTORY: torch.cat([history[forgotten:], torch.zeros_like(history[:forgotten])])})

    def segment(self, state: State, events: EventBatch, sensor: SensorSize) -> WindowSegmentation:
        """Answer one window: pure, the state given is left as it is.

        Raises
        ------
        EncodingError
            If an event lies outside the sensor.
        StateError
            If the state is not one of this network.
        """
        return self.segment_cells(state, self._cells(events, sensor), sensor)

    def segment_many(self, inputs: Sequence[WindowInput]) -> list[WindowSegmentation]:
        """Answer a window of each of several streams, one after the other: company changes no bit.

        Raises
        ------
        EncodingError, StateError
            As ``segment`` does.
        ValueError
            If ``idle`` is negative.
        """
        return [answer for answer, _ in self.segment_with_logits(inputs)]

    def segment_with_logits(self, inputs: Sequence[WindowInput]) -> list[tuple[WindowSegmentation, Tensor]]:
        """Like ``segment_many``, and what each mask is made of: the logits (1, classes, height, width) of the cells."""
        return [
            self._segment(self.leak(item.state, item.idle), self._cells(item.events, item.sensor), item.sensor)
            for item in inputs
        ]

    def segment_cells(self, state: State, counts: Tensor, sensor: SensorSize) -> WindowSegmentation:
        """Like ``segment``, for a window whose counts (2, height, width) of the input's cells are known already."""
        return self._segment(state, counts, sensor)[0]

    def _cells(self, events: EventBatch, sensor: SensorSize) -> Tensor:
        return torch.from_numpy(cells_64(events, sensor, self.coding.height, self.coding.width))

    def _segment(self, state: State, counts: Tensor, sensor: SensorSize) -> tuple[WindowSegmentation, Tensor]:
        self._check_state(state)
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
        mask, activity, logits = _answer(self.runtime, self.coding, x_seq, sensor.height, sensor.width)
        return WindowSegmentation(mask, after, activity), logits

    def _check_state(self, state: State) -> None:
        check_state(state, *self._state_layout())
        if WINDOW in state and int(state[WINDOW]) < 0:
            raise StateError(f"the state stands before window {int(state[WINDOW])}, the first one is 0")

    def _state_layout(self) -> tuple[dict[str, tuple[int, ...]], torch.dtype]:
        match self.coding.code:
            case "poisson":
                return {WINDOW: (1,)}, torch.int64
            case "direct":
                return {}, torch.float32
            case "history":
                return {HISTORY: (self.steps, 2, self.coding.height, self.coding.width)}, torch.float32


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
    def mode(self) -> Mode:
        """``protocol``: every frame starts from rest."""
        return "protocol"

    @property
    def backend(self) -> Backend:
        """What computes it."""
        return self.runtime.backend

    @property
    def precision(self) -> Precision:
        """What its weights are rounded to, in the files that they are kept in."""
        return "int8"

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
        mask, activity, _ = _answer(self.runtime, self.coding, x_seq, rgb.shape[0], rgb.shape[1])
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
) -> tuple[NDArray[np.uint8], SpikeActivity, Tensor]:
    """Mask of height x width, activity, and the logits of the input's cells, from input steps (T, C, h, w)."""
    run = runtime.run(x_seq[:, None])
    logits = runtime.logits(run.state, coding.height, coding.width)
    mask = picture_mask(logits, height, width)
    analog = coding.code != "poisson"
    return mask, runtime.activity(run, 0, coding.height, coding.width, analog_input=analog), logits


def picture_mask(logits: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    """Class ids (height, width) of a picture, from logits (1, classes, h, w) at the cells of a network's input."""
    full = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
    return full[0].argmax(0).to(torch.uint8).numpy()
