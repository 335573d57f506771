"""Train a streaming network, or its ANN twin, on pictures turned into events.

    python -m models.training.train --model edge-s --minutes 40 --out runs/edge-s
    python -m models.training.train --model edge-s --twin --updates 2000 --out runs/edge-s-ann

Truncated backpropagation through time over chunks of windows: membranes carry over from chunk to chunk, cut from the
graph, as they carry over from window to window when the network is served. The ANN twin has the same convolutions with
ReLU, sees the last ``HISTORY`` windows at once, and is given the same number of updates over the same chunks.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Queue

import cv2
import numpy as np
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from models.architectures.edge import EdgeConfig, EdgeDeepLab
from models.classes import DDD17_CLASSES
from models.datasets import camvid, idd_lite
from models.training.evaluate import LabelledWindow, camvid_events, score, window_tensor
from models.training.losses import dice, firing_rate_penalty, set_cross_entropy
from models.training.metrics import class_iou, mean_iou
from models.training.sequences import Chunk, SequenceBatches, SequenceConfig

HISTORY = 8
CONFIGS = {"edge-s": EdgeConfig()}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of a training run.

    Attributes
    ----------
    minutes : float
        Time budget; the learning rate falls to zero over it.
    updates : int
        Budget in updates in place of one in time, if above 0.
    batch : int
        Sequences side by side.
    learning_rate, weight_decay : float
        Of AdamW.
    rate_target, rate_weight : float
        Firing rate that no layer should exceed, and the weight of the penalty.
    dice_weight : float
    ema : float
        Decay of the running mean of the weights, which is what is kept.
    phases : tuple of (share, height, width, smallest scale, largest scale)
        Size of the simulated sensor and range of picture sizes over the run.
    camvid_share : float
        Share of the sequences that are made from CamVid; the rest is from IDD-Lite.
    seed : int
    """

    minutes: float = 40.0
    updates: int = 0
    batch: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    rate_target: float = 0.08
    rate_weight: float = 0.05
    dice_weight: float = 0.5
    ema: float = 0.995
    phases: tuple[tuple[float, int, int, float, float], ...] = (
        (0.6, 144, 192, 0.5, 1.0),
        (0.4, 192, 256, 0.7, 1.2),
    )
    camvid_share: float = 0.65
    seed: int = 0


def class_weights(confusion_free_shares: np.ndarray, cap: float = 6.0) -> Tensor:
    """Weights that grow with the square root of a class's rarity, the commonest 1, capped."""
    return torch.tensor(np.minimum(np.sqrt(confusion_free_shares.max() / confusion_free_shares), cap), dtype=torch.float32)


class Chunks:
    """Chunks made in a thread of their own, of the size that the run's progress asks for."""

    def __init__(self, config: TrainConfig, count_clip: int, root: Path | None) -> None:
        self.config = config
        self.count_clip = count_clip
        self.sources = [
            (camvid.load("train", root), config.camvid_share),
            (idd_lite.load(root), 1 - config.camvid_share),
        ]
        self.phase = 0
        self._queue: Queue[tuple[int, Chunk]] = Queue(maxsize=2)
        threading.Thread(target=self._make, daemon=True).start()

    def _make(self) -> None:
        phase, batches = -1, None
        while True:
            if phase != self.phase or batches is None:
                phase = self.phase
                _, height, width, smallest, largest = self.config.phases[phase]
                sequence = SequenceConfig(height=height, width=width, scales=(smallest, largest))
                batches = SequenceBatches(
                    self.sources, sequence, self.config.batch, self.count_clip, self.config.seed * 100 + phase
                )
            self._queue.put((phase, next(batches)))

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            phase, chunk = self._queue.get()
            if phase == self.phase:
                yield chunk

    def advance(self, progress: float) -> bool:
        """Go over to the phase that ``progress`` in [0, 1) belongs to; true if it is a new one."""
        ends = np.cumsum([share for share, *_ in self.config.phases])
        phase = min(int(np.searchsorted(ends, progress, side="right")), len(ends) - 1)
        changed = phase != self.phase
        self.phase = phase
        return changed


def reset_rows(network: nn.Module, fresh: np.ndarray) -> None:
    """Put the membranes of some rows of the batch to rest, and cut all of them from the graph."""
    keep = torch.from_numpy(~fresh).float()[:, None, None, None]
    for module in network.modules():
        v = getattr(module, "v", None)
        if isinstance(v, Tensor):
            module.v = v.detach() * keep


class History:
    """The last ``HISTORY`` windows of each row, stacked along the channels: what the ANN twin sees."""

    def __init__(self) -> None:
        self.past: Tensor | None = None

    def stack(self, x: Tensor, fresh: np.ndarray | None = None) -> Tensor:
        """(T, B, 2, H, W) to (T, B, 2 * HISTORY, H, W)."""
        if self.past is None or self.past.shape[1:] != x.shape[1:]:
            self.past = torch.zeros(HISTORY - 1, *x.shape[1:])
        if fresh is not None:
            self.past = self.past * torch.from_numpy(~fresh).float()[None, :, None, None, None]
        whole = torch.cat([self.past, x])
        self.past = whole[-(HISTORY - 1) :]
        return torch.cat([whole[k : k + len(x)] for k in range(HISTORY)], dim=2)


@torch.no_grad()
def evaluate_stream(
    network: EdgeDeepLab, windows: list[LabelledWindow], chunk: int = 10
) -> tuple[np.ndarray, dict[str, float]]:
    """Confusion matrix over a drive with carried state, and each layer's firing rate."""
    network.eval()
    functional.reset_net(network)
    x = window_tensor(windows, network.config)[:, None]
    history = History()
    rates: dict[str, float] = {}
    logits = []
    for k in range(0, len(x), chunk):
        part = x[k : k + chunk]
        out, spikes = network.forward_with_spikes(part if network.config.spiking else history.stack(part))
        logits.extend(out[:, 0])
        for name, s in spikes.items():
            rates[name] = rates.get(name, 0.0) + float(s.mean()) * len(part) / len(x)
    functional.reset_net(network)
    network.train()
    matrix, _ = score(windows, lambda k: logits[k], network.config.classes)
    return matrix, rates


def train(model: str, twin: bool, config: TrainConfig, out: Path, root: Path | None = None) -> None:
    """Train a network and write ``weights.pt``, ``log.jsonl`` and ``run.json`` to a folder."""
    torch.manual_seed(config.seed)
    cv2.setNumThreads(1)
    out.mkdir(parents=True, exist_ok=True)
    architecture = CONFIGS[model]
    if twin:
        architecture = replace(architecture, spiking=False, input_channels=2 * HISTORY)
    network = EdgeDeepLab(architecture).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network)
    leaks = [p for name, p in network.named_parameters() if name.endswith(".w") or p.ndim == 1]
    others = [p for name, p in network.named_parameters() if not (name.endswith(".w") or p.ndim == 1)]
    optimizer = torch.optim.AdamW(
        [{"params": others}, {"params": leaks, "weight_decay": 0.0}],
        lr=config.learning_rate, weight_decay=config.weight_decay,
    )
    chunks = Chunks(config, architecture.count_clip, root)
    shares = np.array([0.36, 0.40, 0.025, 0.10, 0.012, 0.06])
    weights = class_weights(shares)
    windows = camvid_events(root)
    history = History()
    started = time.monotonic()
    next_report = 0.0
    update = 0
    sums: dict[str, float] = {}
    with (out / "log.jsonl").open("w") as log:
        for chunk in chunks:
            minutes = (time.monotonic() - started) / 60
            progress = update / config.updates if config.updates else minutes / config.minutes
            if progress >= 1:
                break
            if chunks.advance(progress):
                functional.reset_net(network)
                history = History()
                continue
            warm = min(1.0, update / 50)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
            x = torch.from_numpy(chunk.counts)
            labels = torch.from_numpy(chunk.labels).flatten(0, 1)
            reset_rows(network, chunk.fresh)
            logits, spikes = network.forward_with_spikes(x if not twin else history.stack(x, chunk.fresh))
            # The first windows after a reset have seen too little to be judged.
            seen = torch.ones(x.shape[:2], dtype=torch.bool)
            seen[:2, torch.from_numpy(chunk.fresh)] = False
            labels = torch.where(seen.flatten()[:, None, None], labels, torch.zeros_like(labels))
            up = nn.functional.interpolate(logits.flatten(0, 1), scale_factor=2.0, mode="bilinear")
            parts = {"ce": set_cross_entropy(up, labels, weights), "dice": dice(up, labels)}
            loss = parts["ce"] + config.dice_weight * parts["dice"]
            if not twin:
                parts["rate"] = firing_rate_penalty(spikes.values(), config.rate_target)
                loss = loss + config.rate_weight * min(1.0, 4 * progress) * parts["rate"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            decay = min(config.ema, (1 + update) / (10 + update))
            with torch.no_grad():
                for (name, a), b in zip(averaged.state_dict().items(), network.state_dict().values(), strict=True):
                    if a.dtype.is_floating_point:
                        a.lerp_(b, 1 - decay)
                    else:
                        a.copy_(b)
            update += 1
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if progress >= next_report:
                next_report += 0.1
                _report(log, averaged, windows, update, minutes, sums)
                torch.save(averaged.state_dict(), out / "weights.pt")
        _report(log, averaged, windows, update, (time.monotonic() - started) / 60, sums)
    torch.save(averaged.state_dict(), out / "weights.pt")
    run = {"model": model, "twin": twin, "updates": update, "architecture": asdict(architecture), **asdict(config)}
    (out / "run.json").write_text(json.dumps(run, indent=1))


def _report(log, network, windows, update, minutes, sums) -> None:  # type: ignore[no-untyped-def]
    matrix, rates = evaluate_stream(network, windows)
    iou = class_iou(matrix)
    line = {
        "update": update,
        "minutes": round(minutes, 2),
        "miou": round(mean_iou(matrix), 4),
        "iou": {c.name: round(float(v), 4) for c, v in zip(DDD17_CLASSES, iou, strict=True)},
        "rates": {name: round(r, 4) for name, r in rates.items()},
        "sums": {k: round(v, 2) for k, v in sums.items()},
    }
    sums.clear()
    log.write(json.dumps(line) + "\n")
    log.flush()
    print(json.dumps(line), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(CONFIGS), default="edge-s")
    parser.add_argument("--twin", action="store_true")
    parser.add_argument("--minutes", type=float, default=TrainConfig.minutes)
    parser.add_argument("--updates", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    config = TrainConfig(minutes=args.minutes, updates=args.updates, seed=args.seed)
    train(args.model, args.twin, config, args.out)


if __name__ == "__main__":
    main()
