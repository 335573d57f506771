"""Segmentation metrics from a confusion matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.classes import UNLABELLED

Confusion = NDArray[np.int64]


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Confusion:
    """Pixel counts (classes, classes): rows are the truth, columns the prediction; unlabelled pixels are left out."""
    known = truth != UNLABELLED
    index = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)


def class_iou(matrix: Confusion) -> NDArray[np.float64]:
    """Intersection over union of each class; NaN for a class that is neither present nor predicted."""
    hit = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hit
    iou = np.full_like(hit, np.nan)
    np.divide(hit, union, out=iou, where=union > 0)
    return iou


def class_accuracy(matrix: Confusion) -> NDArray[np.float64]:
    """Share of each class's pixels that are right; NaN for a class that is not present."""
    hit, present = np.diag(matrix).astype(np.float64), matrix.sum(1)
    accuracy = np.full_like(hit, np.nan)
    np.divide(hit, present, out=accuracy, where=present > 0)
    return accuracy


def mean_iou(matrix: Confusion) -> float:
    """Mean of ``class_iou`` over the classes that it is defined for."""
    return float(np.nanmean(class_iou(matrix)))


def pixel_accuracy(matrix: Confusion) -> float:
    """Share of the labelled pixels that are right."""
    return float(np.diag(matrix).sum() / max(int(matrix.sum()), 1))
