"""What a streaming network learns: masks at the end of every window of endless event sequences.

Truncated backpropagation through time over chunks of windows: membranes carry over from chunk to chunk, cut from the
graph, as they carry over from window to window when the network is served. The ANN twin has the same convolutions with
ReLU, sees the last windows at once, and learns from the same chunks with the same settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from models.architectures.edge import EdgeConfig, EdgeDeepLab, add_class_bias
from models.classes import DDD17_CLASSES
from models.errors import TrainingError
from models.training import holdout
from models.training.chunk_sources import ChunkSource, PictureSource, RecordingSource
from models.training.config import TrainConfig
from models.training.evaluate import confusion_report
from models.training.grow import grow
from models.training.history import HISTORY, History
from models.training.losses import dice, distillation, firing_rate_penalty, lovasz, set_cross_entropy
from models.training.sequences import Chunk, SequenceConfig
from models.training.task import Batches, LossPart, Score

ARCHITECTURES = {
    "edge-s": EdgeConfig(readout_scale=2),
    "edge-l": EdgeConfig(stem=32, stride4=64, stride8=128, pyramid=64, decoder=48, readout_scale=2),
}
# Rough shares of the classes among the labelled pixels, after CamVid train: IDD-Lite has no label for object or nature
# alone.
CLASS_SHARES = (0.36, 0.40, 0.025, 0.10, 0.012, 0.06)
HELD_OUT_WINDOWS = 10


def architecture(config: TrainConfig) -> EdgeConfig:
    """The architecture that a config asks for."""
    spiking = ARCHITECTURES[config.model]
    return replace(spiking, spiking=False, input_channels=2 * HISTORY) if config.twin else spiking


def make_network(config: TrainConfig) -> EdgeDeepLab:
    """A config's network at the start of its training."""
    network = EdgeDeepLab(architecture(config))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


class StreamTask:
    """Streaming segmentation of driving events, from CamVid and IDD-Lite pictures or from labelled recordings.

    Parameters
    ----------
    config : TrainConfig
    root : Path, optional
        The data root; by default what ``SPIKESEG_DATA`` names.
    device : torch.device
    rank : int
        Number of this process: each draws sequences of its own.

    Raises
    ------
    DatasetNotFoundError
        If the data is not under the data root.
    TrainingError
        If recordings are to be learned from and none is held out.
    """

    def __init__(
        self, config: TrainConfig, root: Path | None = None, device: torch.device | None = None, rank: int = 0
    ) -> None:
        self.config = config
        self.device = device or torch.device("cpu")
        self._rank = rank
        self.architecture = architecture(config)
        stream = config.stream
        self._source: ChunkSource
        if stream.drives:
            self._source = RecordingSource(stream.drives, stream.held_out_drives, self.architecture.grid, root)
        else:
            self._source = PictureSource(stream.camvid_share, root)
        self._class_weights = class_weights(CLASS_SHARES, config.loss.weight_cap).to(self.device)
        self._history = History()
        self._teacher: EdgeDeepLab | None = None
        self._teacher_history = History()

    def make_network(self) -> EdgeDeepLab:
        """A network at the start of its training."""
        return make_network(self.config)

    def describe(self) -> dict[str, Any]:
        """What a finished run says of its data."""
        return {"window_us": self._source.window_us, **self._source.describe()}

    def teach_with(self, teacher: nn.Module) -> None:
        """Distil from a trained streaming network or ANN twin.

        Raises
        ------
        TrainingError
            If it is neither.
        """
        if not isinstance(teacher, EdgeDeepLab):
            raise TrainingError("a streaming network can be taught by a streaming network or its twin alone")
        self._teacher = teacher.to(self.device).eval()

    def grow(self, small: nn.Module, large: nn.Module) -> None:
        """Start ``large`` from the trained ``small``.

        Raises
        ------
        TrainingError
            If ``large`` cannot answer as ``small`` does.
        """
        if not isinstance(small, EdgeDeepLab) or not isinstance(large, EdgeDeepLab):
            raise TrainingError("a streaming network grows from a streaming network alone")
        grow(small, large)

    @contextmanager
    def batches(self, start: int) -> Iterator[Batches]:
        """Chunks without end; ``start`` is the update that the run is at, so that a resumed one sees new ones."""
        stream = self.config.stream
        sequence = SequenceConfig(
            chunk=stream.chunk,
            chunks=stream.chunks,
            pastes=stream.pastes,
            movers=stream.movers,
            rare_views=stream.rare_views,
            noise_hz=stream.noise_hz,
            hot_pixels=stream.hot_pixels,
        )
        seed = (self.config.seed, self._rank, start)
        with self._source.chunks(
            stream.phases, sequence, batch=self.config.batch, count_clip=self.architecture.count_clip, seed=seed
        ) as chunks:
            yield chunks

    def rest(self, network: EdgeDeepLab) -> None:
        """Forget every sequence: the next chunk begins new ones."""
        functional.reset_net(network)
        self._history = History()
        if self._teacher is not None:
            functional.reset_net(self._teacher)
        self._teacher_history = History()

    def loss(self, network: EdgeDeepLab, chunk: Chunk, progress: float) -> list[LossPart]:
        """The parts of the loss on one chunk at ``progress`` in [0, 1)."""
        stream, weight = self.config.stream, self.config.loss
        x, fresh = torch.from_numpy(chunk.counts).to(self.device), torch.from_numpy(chunk.fresh).to(self.device)
        judged = torch.ones(x.shape[:2], dtype=torch.bool, device=self.device)
        judged[: stream.unjudged, fresh] = False
        labels = (torch.from_numpy(chunk.labels).to(self.device) * judged[:, :, None, None]).flatten(0, 1)

        if chunk.together:
            labels = torch.from_numpy(chunk.labels[-1]).to(self.device)
            self.rest(network)
            fresh = torch.ones_like(fresh)
        logits, spikes = _run(network, x, fresh, self._history, together=chunk.together)
        finer = _at(logits, labels)
        parts = [LossPart("cross_entropy", 1.0, set_cross_entropy(finer, labels, self._class_weights))]
        if weight.dice:
            parts.append(LossPart("dice", weight.dice, dice(finer, labels)))
        if weight.lovasz:
            parts.append(LossPart("lovasz", weight.lovasz, lovasz(finer, labels)))
        if self._teacher is not None:
            with torch.no_grad():
                taught, _ = _run(self._teacher, x, fresh, self._teacher_history, together=chunk.together)
            parts.append(LossPart("teacher", weight.teacher, distillation(finer, _at(taught, labels))))
        if self.architecture.spiking:
            penalty = firing_rate_penalty(spikes.values(), weight.rate_target)
            parts.append(LossPart("rate", weight.rate * min(1.0, 4 * progress), penalty))
        return parts

    @cached_property
    def _drives(self) -> list[holdout.HeldOutDrive]:
        return self._source.held_out(HELD_OUT_WINDOWS, self.architecture.count_clip)

    @torch.no_grad()
    def _held_out_logits(self, network: EdgeDeepLab) -> list[Tensor]:
        was_training = network.training
        network.eval()

        def run(counts: Tensor) -> Tensor:
            functional.reset_net(network)
            rows = torch.ones(counts.shape[1], dtype=torch.bool, device=self.device)
            return _run(network, counts.to(self.device), rows, History())[0]

        logits = holdout.final_logits(self._drives, run)
        functional.reset_net(network)
        network.train(was_training)
        return logits

    def score(self, network: EdgeDeepLab) -> Score:
        """Score a network on the held-out pictures, with the class bias that is best for it."""
        logits = self._held_out_logits(network)
        bias = holdout.fit_class_bias(self._drives, logits)
        report = confusion_report(holdout.score(self._drives, logits, bias), DDD17_CLASSES)
        report["class_bias"] = [round(float(b), 4) for b in bias]
        return Score(report["miou"], report)

    def finish(self, network: EdgeDeepLab, score: Score) -> None:
        """Give a network the class bias that its score was reached with."""
        add_class_bias(network, torch.tensor(score.report["class_bias"], device=self.device))


def _run(
    network: EdgeDeepLab, x: Tensor, fresh: Tensor, history: History, *, together: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and spikes of one chunk (T, B, 2, H, W); ``fresh`` rows start from rest, the others carry on.

    With ``together`` the chunk is one step.
    """
    start_rows_from_rest(network, fresh)
    if together:
        return network.forward_with_spikes(at_once(x, network.config))
    return network.forward_with_spikes(x if network.config.spiking else history.stack(x, fresh))


def at_once(x: Tensor, architecture: EdgeConfig) -> Tensor:
    """Windows (T, B, 2, H, W) as one step: their counts summed, or for an ANN twin the last ones side by side."""
    if architecture.spiking:
        return x.sum(0, keepdim=True).clamp_max(architecture.count_clip)
    return History().stack(x)[-1:]


def _at(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (T, B, classes, h, w) at the cells of the labels, as (T * B, classes, H, W)."""
    rows = logits.flatten(0, 1)
    if rows.shape[-2:] == labels.shape[-2:]:
        return rows
    return nn.functional.interpolate(rows, size=labels.shape[-2:], mode="bilinear")


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
