"""Labelled pictures: grey values and set-valued labels, the input of the event emulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.datasets.labels import LabelSets
from models.errors import DatasetNotFoundError


@dataclass(frozen=True, slots=True)
class Still:
    """One labelled picture.

    Attributes
    ----------
    grey : uint8 array, (H, W)
    labels : uint8 array, (H, W)
        Bit masks of classes (see ``models.datasets.labels``).
    """

    name: str
    grey: NDArray[np.uint8]
    labels: LabelSets


def read_grey(path: Path) -> NDArray[np.uint8]:
    """A picture's luma, (H, W)."""
    return _read(path)


def read_label_ids(path: Path) -> NDArray[np.uint8]:
    """The ids in a label PNG, (H, W), as they are stored."""
    return _read(path)


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise DatasetNotFoundError(f"{path} is missing or not a picture")
    return np.asarray(image, np.uint8)
