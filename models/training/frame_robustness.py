"""What a frame network still sees in perturbed and adversarial pictures of VOC2012 ``val``, at its own size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.datasets import voc2012
from models.training import perturb
from models.training.adversarial import FrameNetwork, fgsm
from models.training.metrics import confusion, mean_iou

BATCH = 8


def voc_pictures(count: int, side: int, root: Path | None = None) -> list[voc2012.Picture]:
    """Pictures of VOC2012 ``val``, evenly taken over the order of their names and resized to a square.

    Raises
    ------
    DatasetNotFoundError
        If VOC2012 is not under the data root.
    """
    pictures = voc2012.load("val", root)
    chosen = np.linspace(0, len(pictures) - 1, min(count, len(pictures))).round().astype(int)
    return [_resized(pictures[int(k)], side) for k in chosen]


def _resized(picture: voc2012.Picture, side: int) -> voc2012.Picture:
    rgb = cv2.resize(picture.rgb, (side, side), interpolation=cv2.INTER_AREA)
    labels = cv2.resize(picture.labels, (side, side), interpolation=cv2.INTER_NEAREST_EXACT)
    return voc2012.Picture(picture.name, np.asarray(rgb, np.uint8), np.asarray(labels, np.uint8))


Attack = Callable[[Tensor, Tensor], Tensor]


def frame_miou(network: FrameNetwork, pictures: Sequence[voc2012.Picture], attack: Attack | None = None) -> float:
    """mIoU over pictures; ``attack(x, target)`` may change a batch (B, 3, H, W) before the network answers."""
    matrix: NDArray[np.int64] | None = None
    for k in range(0, len(pictures), BATCH):
        part = pictures[k : k + BATCH]
        x = torch.from_numpy(np.stack([p.rgb for p in part])).permute(0, 3, 1, 2).float() / 255
        truth = np.stack([p.labels for p in part])
        if attack is not None:
            x = attack(x, torch.from_numpy(truth).long())
        with torch.no_grad():
            logits = F.interpolate(network.forward(x), size=truth.shape[1:], mode="bilinear", align_corners=False)
        answer = logits.argmax(1).to(torch.uint8).numpy()
        part_matrix = confusion(truth, answer, logits.shape[1])
        matrix = part_matrix if matrix is None else matrix + part_matrix
    return mean_iou(matrix) if matrix is not None else float("nan")


FRAME_CHANGES: Mapping[str, tuple[str, tuple[float, ...], float, Callable[..., perturb.Picture]]] = {
    "gaussian_noise": ("Gaussian noise σ, of full scale", (0, 0.02, 0.05, 0.1, 0.2), 0, perturb.gaussian_noise),
    "salt_and_pepper": ("share of pixels black or white", (0, 0.01, 0.02, 0.05, 0.1), 0, perturb.salt_and_pepper),
    "brightness": (
        "brightness, × nominal",
        (0.1, 0.25, 0.5, 0.75, 1),
        1,
        lambda frame, gain, _: perturb.dim(frame, gain),
    ),
}


FGSM_EPSILONS = (0, 1 / 255, 2 / 255, 4 / 255, 8 / 255)


def _fgsm_attack(epsilon: float) -> Callable[[FrameNetwork], Attack]:
    return lambda network: lambda x, target: fgsm(network.forward, x, target, epsilon)


def frame_sweep(
    snn: FrameNetwork, ann: FrameNetwork | None, pictures: Sequence[voc2012.Picture], seed: int
) -> list[dict[str, Any]]:
    """Score frame networks on the same perturbed pictures, and each against an attack by its own gradients.

    Returns
    -------
    list of dict
        As :func:`sweep` gives them, with ``miou`` alone.
    """
    networks = {"snn": snn, "ann": ann}

    def point(
        strength: float, changed: Sequence[voc2012.Picture], attack: Callable[[FrameNetwork], Attack] | None = None
    ) -> dict[str, Any]:
        scores = {
            key: None
            if network is None
            else {"miou": round(frame_miou(network, changed, attack(network) if attack else None), 4)}
            for key, network in networks.items()
        }
        return {"strength": strength, **scores}

    results: list[dict[str, Any]] = []
    for name, (axis, strengths, nominal, change) in FRAME_CHANGES.items():
        points = [
            point(s, [replace(p, rgb=change(p.rgb, s, (seed, k))) for k, p in enumerate(pictures)]) for s in strengths
        ]
        results.append({"name": name, "axis": axis, "nominal": nominal, "points": points})
    points = [point(epsilon, pictures, _fgsm_attack(epsilon)) for epsilon in FGSM_EPSILONS]
    results.append({"name": "fgsm", "axis": "FGSM ε, of full scale", "nominal": 0, "points": points})
    return results


def frame_report(
    snn: FrameNetwork, ann: FrameNetwork | None, count: int, side: int, seed: int = 0, root: Path | None = None
) -> dict[str, Any]:
    """Robustness of frame networks on ``count`` pictures of VOC2012 ``val``, ``side`` x ``side`` pixels.

    Raises
    ------
    DatasetNotFoundError
        If VOC2012 is not under the data root.
    """
    pictures = voc_pictures(count, side, root)
    return {
        "data": f"VOC2012 val (animals and a few more classes), {len(pictures)} pictures at {side}x{side}",
        "pictures": len(pictures),
        "perturbations": frame_sweep(snn, ann, pictures, seed),
    }
