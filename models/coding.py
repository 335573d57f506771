"""Input coding of the paper's networks: events or a frame to T input steps (Kim, Chough and Panda, arXiv 2110.07742).

An input is a picture of values, (C, H, W): polarity counts of a window's events on a fixed grid, or a frame's colours.
It is normalised, and then coded over T steps. In the authors' signed Poisson coding a step holds −1, 0 or 1, drawn anew
with the value's magnitude for probability; their target history shows the network one window in each step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.errors import EncodingError
from models.events import EventBatch, SensorSize

Source = Literal["events", "frames"]
Code = Literal["poisson", "direct", "history"]
Normalisation = Literal["column", "count"]

# Mean colour of the pictures, R, G, B, as the authors take it from earlier VOC networks.
FRAME_MEAN = (122.67892, 116.66877, 104.00699)


@dataclass(frozen=True, slots=True)
class InputCoding:
    """How a network of the paper's protocol is shown its input.

    Attributes
    ----------
    source : "events" or "frames"
    code : "poisson", "direct" or "history"
        Signed Poisson; the same values in each step; or the last T windows, one in each step.
    normalisation : "column" or "count"
        Of events: ``normalise_columns`` (the paper's) or ``normalise_counts``. A frame has its own, ``frame_input``.
    height, width : int
        Size of the network's input in cells, whatever the sensor's or the frame's.
    count_clip : int
        Largest polarity count of a cell that is told from larger ones, with "count".
    seed : int
        Of the Poisson coding, ≥ 0; each window of a stream is coded with a seed of its own made from it.

    Raises
    ------
    ValueError
        If a field is outside its range, or frames are to be coded as a history.
    """

    source: Source = "events"
    code: Code = "poisson"
    normalisation: Normalisation = "column"
    height: int = 64
    width: int = 64
    count_clip: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for field, value, known in (
            ("source", self.source, ("events", "frames")),
            ("code", self.code, ("poisson", "direct", "history")),
            ("normalisation", self.normalisation, ("column", "count")),
        ):
            if value not in known:
                raise ValueError(f"{field} is {value!r}, expected one of {', '.join(known)}")
        if min(self.height, self.width, self.count_clip) < 1 or self.seed < 0:
            raise ValueError("height, width and count_clip must be at least 1, and seed at least 0")
        if self.source == "frames" and self.code == "history":
            raise ValueError("a frame has no history: code it as poisson or direct")

    def normalise(self, counts: Tensor) -> Tensor:
        """Normalise polarity counts (…, H, W)."""
        return (
            normalise_columns(counts) if self.normalisation == "column" else normalise_counts(counts, self.count_clip)
        )


def cells_64(events: EventBatch, sensor: SensorSize, height: int = 64, width: int = 64) -> NDArray[np.float32]:
    """Count the OFF and ON events of one window in the cells of a fixed grid, the paper's 64x64 unless told otherwise.

    Pixel (x, y) falls into cell (x · width // sensor.width, y · height // sensor.height), so that cells differ by a
    pixel where the sensor does not divide evenly.

    Returns
    -------
    float32 array, (2, height, width)
        Channel 0 holds OFF, channel 1 ON. Counts are not clipped.

    Raises
    ------
    EncodingError
        If an event lies outside the sensor.
    """
    if len(events) and (int(events.x.max()) >= sensor.width or int(events.y.max()) >= sensor.height):
        raise EncodingError(f"an event lies outside the {sensor} sensor")
    column = events.x.astype(np.int64) * width // sensor.width
    row = events.y.astype(np.int64) * height // sensor.height
    index = (events.p.astype(np.int64) * height + row) * width + column
    return np.bincount(index, minlength=2 * height * width).astype(np.float32).reshape(2, height, width)


def normalise_columns(x: Tensor) -> Tensor:
    """Scale every image column of every channel to [−0.5, 0.5], the authors' normalisation; (…, H, W).

    Its smallest value becomes −0.5 and its largest 0.5. A column of equal values becomes −0.5: pixels without events
    are far from zero, so that a Poisson code of them fires −1 half of the time.
    """
    low, high = x.amin(-2, keepdim=True), x.amax(-2, keepdim=True)
    extent = high - low
    return (x - low) / torch.where(extent > 0, extent, torch.ones_like(extent)) - 0.5


def normalise_counts(x: Tensor, clip: int) -> Tensor:
    """Clip polarity counts and scale them to [0, 1]; zero stays zero, so that a silent pixel is coded as silence."""
    return x.clamp(0, clip) / clip


def frame_input(rgb: NDArray[np.uint8], height: int = 64, width: int = 64) -> Tensor:
    """A frame as network input: resized, less the mean colour, over 255.

    Parameters
    ----------
    rgb : uint8 array, (H, W, 3)
        Red, green, blue.
    height, width : int
        Of the network's input. The picture is stretched to it.

    Returns
    -------
    float32 Tensor, (3, height, width)

    Raises
    ------
    EncodingError
        If it is not an RGB frame of bytes, or empty.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise EncodingError(f"a frame must be uint8 of shape (H, W, 3), got {rgb.dtype} of {rgb.shape}")
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].to(torch.float32)
    if picture.shape[-2:] != (height, width):
        picture = F.interpolate(picture, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return (picture[0] - torch.tensor(FRAME_MEAN)[:, None, None]) / 255


def poisson_code(x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Signed Poisson coding: in each step sign(x) with probability |x|, otherwise 0.

    Parameters
    ----------
    x : Tensor
        Values; magnitudes of 1 and more fire in every step.
    steps : int
    generator : torch.Generator
        Where the chances come from; it moves on.

    Returns
    -------
    Tensor, (steps, *x.shape)
        −1, 0 and 1 in the values' dtype.
    """
    chances = torch.rand((steps, *x.shape), generator=generator, dtype=x.dtype, device=x.device)
    # rand() can give 0 but not 1: with "<", 0 never fires and 1 always does.
    return (chances < x.abs()).to(x.dtype) * x.sign()


def direct_code(x: Tensor, steps: int) -> Tensor:
    """The same values in each step; (steps, *x.shape), a view that takes no memory."""
    return x.expand(steps, *x.shape)


def history_code(windows: Iterable[Tensor]) -> Tensor:
    """Target history: T consecutive windows, oldest first and of one shape, one in each step; (T, *shape)."""
    return torch.stack(tuple(windows))


def window_generator(seed: int, window: int) -> torch.Generator:
    """Where the chances for one window of a stream come from: the same ones for the same seed and window."""
    mixed = int(np.random.SeedSequence((seed, window)).generate_state(1, np.uint64)[0])
    # torch takes seeds of 63 bits from Python.
    return torch.Generator().manual_seed(mixed >> 1)
