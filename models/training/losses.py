"""Losses: set-valued cross-entropy, Dice on the pixels of one class, and a penalty on firing rates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def members(labels: Tensor, classes: int) -> Tensor:
    """Bit masks (...) to a boolean tensor (..., classes)."""
    bits = torch.arange(classes, device=labels.device)
    return (labels.long()[..., None] >> bits & 1).bool()


def set_cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Negative log of the summed probability of each pixel's set of classes.

    Parameters
    ----------
    logits : Tensor, (N, classes, h, w)
    labels : integer Tensor, (N, h, w)
        Bit masks; 0 is left out.
    class_weights : Tensor, (classes,)
        A set weighs as much as the lightest of its classes.

    Returns
    -------
    Tensor
        Weighted mean over the labelled pixels.
    """
    inside = members(labels, logits.shape[1]).permute(0, 3, 1, 2)
    labelled = inside.any(1)
    log_p = F.log_softmax(logits, 1)
    # An empty set would have log 0: it is given all classes and weight 0.
    allowed = inside | ~labelled[:, None]
    log_set = log_p.masked_fill(~allowed, float("-inf")).logsumexp(1)
    weight = class_weights[None, :, None, None].masked_fill(~inside, float("inf")).amin(1)
    weight = torch.where(labelled, weight, torch.zeros_like(weight))
    return -(weight * log_set).sum() / weight.sum().clamp_min(1.0)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the mean soft Dice coefficient of the classes present, over pixels whose set holds one class."""
    inside = members(labels, logits.shape[1])
    single = inside.sum(-1) == 1
    p = logits.permute(0, 2, 3, 1)[single].softmax(-1)
    y = inside[single].to(p.dtype)
    overlap, total = (p * y).sum(0), p.sum(0) + y.sum(0)
    present = y.sum(0) > 0
    if not present.any():
        return logits.sum() * 0
    return 1 - (2 * overlap[present] / total[present]).mean()


def lovasz(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovász-softmax (Berman et al., CVPR 2018): a convex surrogate of one minus the mean IoU of the classes present.

    Over pixels whose set holds one class, all rows together.
    """
    inside = members(labels, logits.shape[1])
    single = inside.sum(-1) == 1
    p = logits.permute(0, 2, 3, 1)[single].softmax(-1)
    y = inside[single].to(p.dtype)
    present = [c for c in range(y.shape[1]) if y[:, c].any()]
    if not present:
        return logits.sum() * 0
    losses = []
    for c in present:
        errors, order = (y[:, c] - p[:, c]).abs().sort(descending=True)
        truth = y[order, c]
        # The Jaccard loss of the k worst errors, for every k; its differences weigh the errors.
        intersection = truth.sum() - truth.cumsum(0)
        union = truth.sum() + (1 - truth).cumsum(0)
        jaccard = 1 - intersection / union
        losses.append(errors @ torch.cat([jaccard[:1], jaccard.diff()]))
    return torch.stack(losses).mean()


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the softmax from the teacher's, mean over the pixels; (N, classes, h, w) each."""
    divergence = F.kl_div(F.log_softmax(logits, 1), F.log_softmax(teacher, 1), log_target=True, reduction="none")
    return divergence.sum(1).mean()


def firing_rate_penalty(spikes: Iterable[Tensor], target: float) -> Tensor:
    """Mean over the layers of how far each one's firing rate lies above the target, relative to it, squared."""
    rates = torch.stack([s.mean() for s in spikes])
    return ((rates - target).clamp_min(0) / target).square().mean()
