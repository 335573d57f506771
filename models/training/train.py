"""Train a streaming network, or its ANN twin, on pictures turned into events.

    python -m models.training.train --model edge-s --minutes 60 --out runs/edge-s
    python -m models.training.train --model edge-s --twin --minutes 60 --out runs/edge-s-ann

Truncated backpropagation through time over chunks of windows: membranes carry over from chunk to chunk, cut from the
graph, as they carry over from window to window when the network is served. The ANN twin has the same convolutions with
ReLU, sees the last windows at once, and is trained on the same chunks with the same settings.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from models.architectures.edge import EdgeConfig, EdgeDeepLab
from models.datasets import camvid, idd_lite
from models.datasets.stills import Still
from models.machine import describe_machine
from models.training.evaluate import LabelledWindow, camvid_events, confusion_report, score_logits, window_tensor
from models.training.history import HISTORY, History
from models.training.losses import dice, firing_rate_penalty, set_cross_entropy
from models.training.metrics import Confusion
from models.training.prefetch import ChunkPrefetcher, Phase
from models.training.sequences import Chunk

CONFIGS = {"edge-s": EdgeConfig()}
REPORTS = 10
# Rough shares of the classes among the labelled pixels, after CamVid train: IDD-Lite has no label for object or nature
# alone.
CLASS_SHARES = (0.36, 0.40, 0.025, 0.10, 0.012, 0.06)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of a training run.

    Attributes
    ----------
    minutes : float
        Time budget; the learning rate falls to zero over it.
    updates : int
        Budget in updates, in place of one in time if above 0.
    batch : int
        Sequences side by side.
    learning_rate, weight_decay : float
        Of AdamW; leaks, norms and biases do not decay.
    warm_up : int
        Updates over which the learning rate rises.
    rate_target, rate_weight : float
        Firing rate that no layer should exceed, and the weight of the penalty.
    dice_weight : float
    weight_cap : float
        Largest class weight; the commonest class has 1.
    ema : float
        Decay of the running mean of the weights, which is what is kept.
    unjudged : int
        Windows after a reset that the loss leaves out: they have seen too little.
    phases : tuple of Phase
    camvid_share : float
        Share of the sequences that are made from CamVid; the rest is from IDD-Lite.
    seed : int
    """

    minutes: float = 60.0
    updates: int = 0
    batch: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    warm_up: int = 50
    rate_target: float = 0.08
    rate_weight: float = 0.2
    dice_weight: float = 0.5
    weight_cap: float = 6.0
    ema: float = 0.995
    unjudged: int = 2
    phases: tuple[Phase, ...] = (Phase(0.6, 144, 192, (0.5, 1.0)), Phase(0.4, 192, 256, (0.7, 1.2)))
    camvid_share: float = 0.65
    seed: int = 0


def class_weights(shares: tuple[float, ...], cap: float) -> Tensor:
    """Weights that grow with the square root of a class's rarity; the commonest has 1."""
    rarity = torch.tensor([max(shares) / share for share in shares])
    return rarity.sqrt().clamp_max(cap)


def start_rows_from_rest(network: nn.Module, fresh: Tensor) -> None:
    """Cut all membranes from the graph, and put those of the ``fresh`` rows (B,) to rest."""
    keep = (~fresh).float()[:, None, None, None]
    for module in network.modules():
        v = getattr(module, "v", None)
        if isinstance(v, Tensor):
            module.v = v.detach() * keep


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Running mean of a network's weights and norm statistics."""
    for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if a.dtype.is_floating_point:
            a.lerp_(b, 1 - decay)
        else:
            a.copy_(b)


@torch.no_grad()
def evaluate_stream(
    network: EdgeDeepLab, windows: list[LabelledWindow], chunk: int = 10
) -> tuple[Confusion, dict[str, float]]:
    """Confusion matrix over a drive with carried state, and each layer's firing rate.

    The network's own membranes are put to rest.
    """
    was_training = network.training
    network.eval()
    functional.reset_net(network)
    x = window_tensor(windows, network.config)[:, None]
    history = History()
    rates: dict[str, float] = defaultdict(float)
    logits: list[Tensor] = []
    for k in range(0, len(x), chunk):
        part = x[k : k + chunk]
        out, spikes = network.forward_with_spikes(part if network.config.spiking else history.stack(part))
        logits.extend(out[:, 0])
        for name, s in spikes.items():
            rates[name] += float(s.mean()) * len(part) / len(x)
    functional.reset_net(network)
    network.train(was_training)
    return score_logits(windows, logits, network.config.classes), dict(rates)


class Trainer:
    """A network, its optimiser and its running mean: one call of :meth:`update` for each chunk."""

    def __init__(self, architecture: EdgeConfig, config: TrainConfig) -> None:
        self.config = config
        self.network = EdgeDeepLab(architecture)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network)
        self.updates = 0
        self._weights = class_weights(CLASS_SHARES, config.weight_cap)
        self._history = History()
        parameters = dict(self.network.named_parameters())
        free = [p for name, p in parameters.items() if name.endswith(".w") or p.ndim == 1]
        decaying = [p for name, p in parameters.items() if not (name.endswith(".w") or p.ndim == 1)]
        groups: list[dict[str, Any]] = [{"params": decaying}, {"params": free, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )

    def rest(self) -> None:
        """Forget every sequence: the next chunk begins new ones."""
        functional.reset_net(self.network)
        self._history = History()

    def update(self, chunk: Chunk, progress: float) -> dict[str, float]:
        """Learn from one chunk at ``progress`` in [0, 1); gives the parts of the loss."""
        config = self.config
        warm = min(1.0, self.updates / config.warm_up)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))

        x, fresh = torch.from_numpy(chunk.counts), torch.from_numpy(chunk.fresh)
        judged = torch.ones(x.shape[:2], dtype=torch.bool)
        judged[: config.unjudged, fresh] = False
        labels = torch.from_numpy(chunk.labels) * judged[:, :, None, None]

        start_rows_from_rest(self.network, fresh)
        spiking = self.network.config.spiking
        logits, spikes = self.network.forward_with_spikes(x if spiking else self._history.stack(x, fresh))
        finer = nn.functional.interpolate(logits.flatten(0, 1), scale_factor=2.0, mode="bilinear")
        parts = {
            "cross_entropy": set_cross_entropy(finer, labels.flatten(0, 1), self._weights),
            "dice": dice(finer, labels.flatten(0, 1)),
        }
        loss = parts["cross_entropy"] + config.dice_weight * parts["dice"]
        if spiking:
            parts["rate"] = firing_rate_penalty(spikes.values(), config.rate_target)
            loss = loss + config.rate_weight * min(1.0, 4 * progress) * parts["rate"]
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimizer.step()
        # A young mean forgets faster, so that the random start does not linger in it.
        update_average(self.average, self.network, min(config.ema, (1 + self.updates) / (10 + self.updates)))
        self.updates += 1
        return {name: float(value.detach()) for name, value in parts.items()}


def train(model: str, twin: bool, config: TrainConfig, out: Path, root: Path | None = None) -> None:
    """Train a network and write ``weights.pt``, ``log.jsonl`` and ``run.json`` to the folder ``out``.

    Raises
    ------
    DatasetNotFoundError
        If CamVid or IDD-Lite are not under the data root.
    """
    torch.manual_seed(config.seed)
    cv2.setNumThreads(1)
    sources: list[tuple[list[Still], float]] = [
        (camvid.load("train", root), config.camvid_share),
        (idd_lite.load(root), 1 - config.camvid_share),
    ]
    windows = camvid_events(root)
    architecture = CONFIGS[model]
    if twin:
        architecture = replace(architecture, spiking=False, input_channels=2 * HISTORY)
    trainer = Trainer(architecture, config)
    out.mkdir(parents=True, exist_ok=True)
    sums: dict[str, float] = defaultdict(float)
    since_report = 0
    reports = 0
    started = time.monotonic()
    with (
        (out / "log.jsonl").open("w") as log,
        ChunkPrefetcher(sources, config.phases, config.batch, architecture.count_clip, config.seed) as chunks,
    ):
        for chunk in chunks:
            minutes = (time.monotonic() - started) / 60
            progress = trainer.updates / config.updates if config.updates else minutes / config.minutes
            if progress * REPORTS >= reports:
                reports += 1
                losses = {name: round(total / max(since_report, 1), 4) for name, total in sums.items()}
                sums.clear()
                since_report = 0
                matrix, rates = evaluate_stream(trainer.average, windows)
                line = {"update": trainer.updates, "minutes": round(minutes, 1), "losses": losses}
                line |= confusion_report(matrix) | {"layer_firing_rate": {k: round(r, 4) for k, r in rates.items()}}
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(_summary(line), flush=True)
                torch.save(trainer.average.state_dict(), out / "weights.pt")
            if progress >= 1:
                break
            if chunks.advance(progress):
                trainer.rest()
                continue
            for name, value in trainer.update(chunk, progress).items():
                sums[name] += value
            since_report += 1
    run = {"model": model, "twin": twin, "architecture": asdict(architecture), **asdict(config)}
    (out / "run.json").write_text(
        json.dumps(run | {"updates_done": trainer.updates, "machine": describe_machine()}, indent=1)
    )


def _summary(line: dict[str, Any]) -> str:
    classes = " ".join(f"{name} {iou:.3f}" for name, iou in line["class_iou"].items())
    return (
        f"update {line['update']:5d}  {line['minutes']:5.1f} min  mIoU {line['miou']:.4f}  {classes}  {line['losses']}"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(CONFIGS), default="edge-s")
    parser.add_argument("--twin", action="store_true", help="train the ANN twin")
    parser.add_argument("--minutes", type=float, default=60.0, help="time budget")
    parser.add_argument("--updates", type=int, default=0, help="budget in updates, in place of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: one for each core")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, log and settings")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    train(args.model, args.twin, TrainConfig(minutes=args.minutes, updates=args.updates, seed=args.seed), args.out)


if __name__ == "__main__":
    main()
