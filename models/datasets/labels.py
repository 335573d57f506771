"""Set-valued labels: for each pixel a bit mask of the classes that it may be.

Data sets with coarser classes than ours then train the same head, with no label invented: the loss asks only that the
summed probability of the set be high. Bit ``c`` stands for class ``c``; 0 means unlabelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.classes import UNLABELLED

LabelSets = NDArray[np.uint8]


def set_table(sets: Mapping[int, Sequence[int]]) -> LabelSets:
    """A lookup table (256,) from a data set's label ids to bit masks of our classes."""
    table = np.zeros(256, np.uint8)
    for label, classes in sets.items():
        table[label] = sum(1 << c for c in classes)
    return table


def class_ids(sets: LabelSets) -> NDArray[np.uint8]:
    """Class ids where the set holds one class alone, ``UNLABELLED`` elsewhere."""
    table = np.full(256, UNLABELLED, np.uint8)
    for c in range(8):
        table[1 << c] = c
    return table[sets]


def sets_of_ids(ids: NDArray[np.uint8]) -> LabelSets:
    """Bit masks of one class each, empty where an id is ``UNLABELLED``; ids are below 8."""
    table = np.zeros(256, np.uint8)
    table[:8] = 1 << np.arange(8)
    return table[ids]


def at_cells(labels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Labels (..., H, W) at the middle of each cell of a grid of height x width."""
    rows = ((np.arange(height) + 0.5) * labels.shape[-2] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * labels.shape[-1] / width).astype(np.int64)
    return labels[..., rows[:, None], columns]
