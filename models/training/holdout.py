"""Pictures of the training set that are kept from training: what checkpoints and class biases are chosen by.

The test drive is never looked at before the end of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.datasets.labels import class_ids
from models.datasets.stills import Still
from models.training.metrics import Confusion, class_iou, confusion
from models.training.sequences import Pictures, SequenceBatches, SequenceConfig

BLOCK, PERIOD = 5, 50
SEED = 1_000_003


def split(stills: Sequence[Still]) -> tuple[list[Still], list[Still]]:
    """Pictures to train on, and those held out: blocks of 5 in every 50, as neighbours look alike."""
    held = [k % PERIOD >= PERIOD - BLOCK for k in range(len(stills))]
    if not any(held):
        # Too few for a block: the last one.
        held = [False] * (len(stills) - 1) + [True]
    training = [still for still, out in zip(stills, held, strict=True) if not out]
    return training, [still for still, out in zip(stills, held, strict=True) if out]


@dataclass(frozen=True, slots=True)
class HeldOutDrive:
    """A drive over one held-out picture: counts (T, 1, 2, H, W) float32 and the labels of its last window.

    ``truth`` (H / s, W / s) uint8 holds class ids, for every ``s``-th pixel.
    """

    counts: Tensor
    truth: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def drives(stills: Sequence[Still], config: SequenceConfig, count_clip: int) -> list[HeldOutDrive]:
    """One drive over each picture as it is: the whole view, nothing pasted in, nothing moving in front of it.

    The same pictures and config give the same drives.
    """
    made = []
    for k, still in enumerate(stills):
        chunk = next(SequenceBatches(Pictures([([still], 1.0)]), config, 1, count_clip, (SEED, k)))
        made.append(HeldOutDrive(torch.from_numpy(chunk.counts), class_ids(chunk.labels[-1, 0])))
    return made


def natural_views(height: int, width: int, windows: int) -> SequenceConfig:
    """Sequences of the pictures as they are, looked at whole by a sensor of that size."""
    return SequenceConfig(
        height=height,
        width=width,
        chunk=windows,
        chunks=(1, 1),
        scales=(1.0, 1.1),
        pastes=0,
        movers=0,
        rare_views=0.0,
    )


def final_logits(drives: Sequence[HeldOutDrive], run: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Logits (classes, h, w) at the end of each drive; ``run`` takes counts, from rest, to (T, 1, classes, h, w)."""
    return [run(drive.counts)[-1, 0].float().cpu() for drive in drives]


def score(drives: Sequence[HeldOutDrive], logits: Sequence[Tensor], bias: Tensor | None = None) -> Confusion:
    """Confusion matrix of the drives' last windows, cell by cell, with a bias (classes,) added to the logits."""
    classes = logits[0].shape[0]
    offset = torch.zeros(classes, 1, 1) if bias is None else bias[:, None, None]
    total = np.zeros((classes, classes), np.int64)
    for drive, values in zip(drives, logits, strict=True):
        height, width = drive.truth.shape
        predicted = at_cells(values + offset, height, width).argmax(0).to(torch.uint8).numpy()
        total += confusion(drive.truth, predicted, classes)
    return total


def at_cells(logits: Tensor, height: int, width: int) -> Tensor:
    """Logits (classes, h, w) at the cells of the labels."""
    if logits.shape[1:] == (height, width):
        return logits
    resized: Tensor = torch.nn.functional.interpolate(logits[None], size=(height, width), mode="bilinear")[0]
    return resized


def fit_class_bias(drives: Sequence[HeldOutDrive], logits: Sequence[Tensor]) -> Tensor:
    """The bias (classes,) on the logits that gives the held-out drives the highest mean IoU, by coordinate ascent.

    Rare classes are shown far more often in training than they are met on a street, so that a trained network expects
    too many of them.
    """
    height, width = drives[0].truth.shape
    # A quarter of the pixels decides as well as all of them.
    cells = [at_cells(values, height, width)[:, ::2, ::2] for values in logits]
    thinned = [HeldOutDrive(drive.counts, drive.truth[::2, ::2]) for drive in drives]
    bias = torch.zeros(logits[0].shape[0])
    # A class that does not occur here can only be given less, until it is never predicted.
    occurring = [c for c in range(len(bias)) if any((drive.truth == c).any() for drive in drives)]

    def reached_with(tried: Tensor) -> float:
        return float(class_iou(score(thinned, cells, tried))[occurring].mean())

    best = reached_with(bias)
    for step in (1.0, 0.5, 0.25):
        improved = True
        while improved:
            improved = False
            for c in occurring:
                for change in (-step, step):
                    tried = bias.clone()
                    tried[c] += change
                    reached = reached_with(tried)
                    if reached > best + 1e-5:
                        best, bias, improved = reached, tried, True
    return bias
