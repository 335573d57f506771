"""What a paper network learns: one mask from T steps at rest, of a window of events or of a picture.

Plain cross-entropy over the labelled pixels, as in the paper. The ANN twin sees the same input once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from models.architectures.paper import Kind, PaperConfig, PaperNetwork, firing_rates
from models.classes import DDD17_CLASSES, UNLABELLED, SegmentationClass
from models.coding import direct_code, frame_input, history_code, poisson_code
from models.datasets import voc2012
from models.datasets.labels import at_cells
from models.errors import TrainingError
from models.training import holdout
from models.training.chunk_sources import ChunkSource, PictureSource, RecordingSource
from models.training.config import CropPhase, Phase, TrainConfig
from models.training.evaluate import SENSOR, confusion_report
from models.training.losses import set_cross_entropy
from models.training.metrics import Confusion, confusion
from models.training.prefetch import phase_at
from models.training.sequences import Chunk, SequenceConfig
from models.training.task import Batches, LossPart, Score

KINDS: dict[str, Kind] = {"paper-deeplab": "deeplab", "paper-fcn": "fcn"}
SETTLING_WINDOWS = 2
"""Windows before the one that is learned, in which the simulated sensor leaves its start behind."""
COUNT_LIMIT = 255
HELD_OUT_EVERY = 20
FRAME_SCALES = (0.5, 2.0)
FRAME_SHIFT = 0.25
FRAME_DEGREES = 15.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs before coding, oldest window first, and what the last of them shows.

    Attributes
    ----------
    x : float32 Tensor, (windows, B, C, H, W)
        Normalised.
    labels : uint8 Tensor, (B, H, W)
        Bit masks of classes for events, class ids for pictures.
    """

    x: Tensor
    labels: Tensor


def architecture(config: TrainConfig) -> PaperConfig:
    """The architecture that a config asks for."""
    frames = config.protocol.coding.source == "frames"
    return PaperConfig(
        kind=KINDS[config.model],
        classes=len(voc2012.CLASSES) if frames else len(DDD17_CLASSES),
        input_channels=3 if frames else 2,
        steps=config.protocol.steps,
        spiking=not config.twin,
        surrogate=config.protocol.surrogate,
    )


def make_network(config: TrainConfig) -> PaperNetwork:
    """A config's network at the start of its training."""
    network = PaperNetwork(architecture(config))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def cells_of_counts(counts: Tensor, height: int, width: int) -> Tensor:
    """Sum pixel counts (..., H, W) over the cells of a fixed grid, as ``models.coding.cells_64`` counts events."""
    rows = _membership(counts.shape[-2], height).to(counts)
    columns = _membership(counts.shape[-1], width).to(counts)
    return rows @ counts @ columns.T


def _membership(pixels: int, cells: int) -> Tensor:
    """(cells, pixels): 1 where a pixel lies in a cell."""
    return nn.functional.one_hot(torch.arange(pixels) * cells // pixels, cells).T.float()


def vary_frame(
    rng: np.random.Generator, rgb: NDArray[np.uint8], labels: NDArray[np.uint8], height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture and its labels at height x width, flipped, scaled, shifted and turned at random, as in the paper.

    What lies beyond the picture's border is grey, and unlabelled.
    """
    scale = float(np.exp(rng.uniform(*np.log(FRAME_SCALES))))
    shrink = max(labels.shape[1] / width, labels.shape[0] / height) / scale
    if shrink > 1:
        # A warp takes single pixels of the picture: what is finer than its output must go first.
        size = tuple(max(1, round(side / shrink)) for side in labels.shape[::-1])
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    turn = np.deg2rad(rng.uniform(-FRAME_DEGREES, FRAME_DEGREES))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    h, w = labels.shape
    shift = rng.uniform(-FRAME_SHIFT, FRAME_SHIFT, 2) * (w, h)
    # From the output's pixels to the picture's.
    zoom = np.diag([flip * w / width, h / height]) / scale
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ zoom
    middle = np.array([(w - 1) / 2, (h - 1) / 2]) + shift - turned @ np.array([(width - 1) / 2, (height - 1) / 2])
    to_picture = np.column_stack([turned, middle])
    size = (width, height)
    smooth = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    picture = cv2.warpAffine(rgb, to_picture, size, flags=smooth, borderValue=(124, 117, 104))
    varied = cv2.warpAffine(
        labels, to_picture, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderValue=(UNLABELLED,)
    )
    return np.asarray(picture, np.uint8), np.asarray(varied, np.uint8)


class ProtocolTask:
    """Segmentation by the paper's protocol.

    Parameters
    ----------
    config : TrainConfig
    root : Path, optional
        The data root; by default what ``SPIKESEG_DATA`` names.
    device : torch.device
    rank : int
        Number of this process: each draws samples of its own.

    Raises
    ------
    DatasetNotFoundError
        If the data is not under the data root.
    """

    def __init__(
        self, config: TrainConfig, root: Path | None = None, device: torch.device | None = None, rank: int = 0
    ) -> None:
        self.config = config
        self.device = device or torch.device("cpu")
        self.coding = config.protocol.coding
        self.architecture = architecture(config)
        self._rank = rank
        self._crop = config.protocol.phases[0].side
        self._chances = torch.Generator()
        self._data: _EventData | _FrameData
        self._data = (_FrameData if self.coding.source == "frames" else _EventData)(config, root)

    def make_network(self) -> PaperNetwork:
        """A network at the start of its training."""
        return make_network(self.config)

    def describe(self) -> dict[str, Any]:
        """What a finished run says of its data."""
        return self._data.describe()

    @contextmanager
    def batches(self, start: int) -> Iterator[Batches]:
        """Samples without end; ``start`` is the update that the run is at, so that a resumed one sees new ones."""
        seed = (self.config.seed, self._rank, start)
        self._chances.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        with self._data.samples(seed) as samples:
            yield _Cropped(samples, self.config.protocol.phases, np.random.default_rng((*seed, 1)))

    def rest(self, network: nn.Module) -> None:
        """Put all membranes to rest."""
        functional.reset_net(network)

    def grow(self, small: nn.Module, large: nn.Module) -> None:
        """Start ``large`` from a trained network of the same kind: the paper's have one size.

        Raises
        ------
        TrainingError
            If they differ.
        """
        if not isinstance(small, PaperNetwork) or small.config != self.architecture:
            raise TrainingError("a paper network has one size: it can start only from a run of the same network")
        large.load_state_dict(small.state_dict())

    def teach_with(self, teacher: nn.Module) -> None:
        """Refuse.

        Raises
        ------
        TrainingError
            Always: the paper's networks learn from labels alone.
        """
        raise TrainingError(f"a paper network learns from labels alone, not from a {type(teacher).__name__}")

    def loss(self, network: PaperNetwork, batch: Sample, progress: float) -> list[LossPart]:
        """The parts of the loss on one batch at ``progress`` in [0, 1)."""
        logits, spikes = self._run(network, batch.x.to(self.device))
        sets = self._data.sets(batch.labels.to(self.device))
        weights = torch.ones(self.architecture.classes, device=self.device)
        parts = [LossPart("cross_entropy", 1.0, set_cross_entropy(logits, sets, weights))]
        weight = self.config.loss
        if self.architecture.spiking and weight.rate:
            rates = torch.stack(list(firing_rates(spikes).values()))
            penalty = ((rates - weight.rate_target).clamp_min(0) / weight.rate_target).square().mean()
            parts.append(LossPart("rate", weight.rate * min(1.0, 4 * progress), penalty))
        return parts

    def _run(self, network: PaperNetwork, x: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, ...]]]:
        """Logits (B, classes, H, W) and spikes, from normalised windows (windows, B, C, H, W)."""
        functional.reset_net(network)
        return network.forward_with_spikes(self._code(x))

    def _code(self, x: Tensor) -> Tensor:
        if self.config.twin:
            return x[-1:]
        match self.coding.code:
            case "poisson":
                return poisson_code(x[-1].cpu(), self.architecture.steps, self._chances).to(x.device)
            case "direct":
                return direct_code(x[-1], self.architecture.steps)
            case "history":
                return history_code(x[-self.architecture.steps :])

    @torch.no_grad()
    def score(self, network: PaperNetwork) -> Score:
        """Score a network on the held-out pictures."""
        was_training = network.training
        network.eval()
        matrix = self._data.score(lambda x: self._run(network, x.to(self.device))[0].cpu())
        functional.reset_net(network)
        network.train(was_training)
        report = confusion_report(matrix, self._data.classes)
        return Score(report["miou"], report)

    def finish(self, network: PaperNetwork, score: Score) -> None:
        """Nothing is left to do: the paper's score layer has no bias that could be set."""


class _EventData:
    """The last windows of sequences, on the paper's grid of cells."""

    classes: tuple[SegmentationClass, ...] = DDD17_CLASSES

    def __init__(self, config: TrainConfig, root: Path | None) -> None:
        self._config = config
        data = config.protocol
        self._source: ChunkSource
        if data.drives:
            self._source = RecordingSource(data.drives, data.held_out_drives, 0, root)
        else:
            self._source = PictureSource(data.camvid_share, root)
        self._windows = data.steps if data.coding.code == "history" and not config.twin else 1

    def describe(self) -> dict[str, Any]:
        return {"window_us": self._source.window_us, **self._source.describe()}

    @contextmanager
    def samples(self, seed: tuple[int, ...]) -> Iterator[Iterator[Sample]]:
        sequence = SequenceConfig(chunk=self._windows + SETTLING_WINDOWS, chunks=(1, 1))
        phase = Phase(1.0, SENSOR.height, SENSOR.width, (1.0, 1.5))
        with self._source.chunks(
            [phase], sequence, batch=self._config.batch, count_clip=COUNT_LIMIT, seed=seed
        ) as chunks:
            yield (self._sample(chunk) for chunk in chunks)

    def _sample(self, chunk: Chunk) -> Sample:
        coding = self._config.protocol.coding
        labels = at_cells(chunk.labels[-1], coding.height, coding.width)
        return Sample(self._input(torch.from_numpy(chunk.counts)), torch.from_numpy(labels))

    def _input(self, counts: Tensor) -> Tensor:
        coding = self._config.protocol.coding
        return coding.normalise(cells_of_counts(counts[-self._windows :], coding.height, coding.width))

    def sets(self, labels: Tensor) -> Tensor:
        return labels

    @cached_property
    def _drives(self) -> list[holdout.HeldOutDrive]:
        return self._source.held_out(self._windows + SETTLING_WINDOWS, COUNT_LIMIT)

    def score(self, run: Callable[[Tensor], Tensor]) -> Confusion:
        logits = holdout.final_logits(self._drives, lambda counts: run(self._input(counts))[None])
        return holdout.score(self._drives, logits)


class _FrameData:
    """VOC2012 pictures, varied as in the paper."""

    classes: tuple[SegmentationClass, ...] = voc2012.CLASSES

    def __init__(self, config: TrainConfig, root: Path | None) -> None:
        self._config = config
        self._pictures = voc2012.load("train_aug", root)
        every = range(len(self._pictures))
        self._held_out = [k for k in every if (k + 1) % HELD_OUT_EVERY == 0] or [every[-1]]
        self._training = sorted(set(every) - set(self._held_out))

    def describe(self) -> dict[str, Any]:
        return {
            "training_pictures": {"VOC2012 train_aug": len(self._training)},
            "held_out_pictures": {"VOC2012 train_aug": len(self._held_out)},
        }

    @contextmanager
    def samples(self, seed: tuple[int, ...]) -> Iterator[Iterator[Sample]]:
        yield self._forever(np.random.default_rng(seed))

    def _forever(self, rng: np.random.Generator) -> Iterator[Sample]:
        coding = self._config.protocol.coding
        while True:
            drawn = rng.integers(0, len(self._training), self._config.batch)
            chosen = [self._pictures[self._training[int(k)]] for k in drawn]
            varied = [vary_frame(rng, p.rgb, p.labels, coding.height, coding.width) for p in chosen]
            x = torch.stack([frame_input(rgb, coding.height, coding.width) for rgb, _ in varied])
            yield Sample(x[None], torch.from_numpy(np.stack([labels for _, labels in varied])))

    def sets(self, labels: Tensor) -> Tensor:
        return id_sets(labels)

    def score(self, run: Callable[[Tensor], Tensor]) -> Confusion:
        coding = self._config.protocol.coding
        total = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for picture in (self._pictures[k] for k in self._held_out):
            logits = run(frame_input(picture.rgb, coding.height, coding.width)[None, None])
            full = holdout.at_cells(logits[0], *picture.labels.shape)
            total += confusion(picture.labels, full.argmax(0).to(torch.uint8).numpy(), len(self.classes))
        return total


def id_sets(ids: Tensor) -> Tensor:
    """Class ids to bit masks of one class each, int32; unlabelled ones to the empty set."""
    return torch.where(ids == UNLABELLED, 0, 1 << ids.clamp_max(30).int())


class _Cropped:
    """Random square crops of samples, of the size that the run's progress asks for."""

    def __init__(self, samples: Iterator[Sample], phases: Sequence[CropPhase], rng: np.random.Generator) -> None:
        self._samples = samples
        self._phases = phases
        self._rng = rng
        self._phase = 0

    def __iter__(self) -> Iterator[Sample]:
        for sample in self._samples:
            height, width = sample.labels.shape[-2:]
            side = min(self._phases[self._phase].side, height, width)
            y, x = (int(self._rng.integers(0, room + 1)) for room in (height - side, width - side))
            box = (..., slice(y, y + side), slice(x, x + side))
            yield Sample(sample.x[box], sample.labels[box])

    def advance(self, progress: float) -> bool:
        phase = phase_at([phase.share for phase in self._phases], progress)
        changed = phase != self._phase
        self._phase = phase
        return changed
