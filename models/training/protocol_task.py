"""What a paper network learns: one mask from T steps at rest, of a window of events or of a picture.

Plain cross-entropy over the labelled pixels, as in the paper. The ANN twin sees the same input once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from models.architectures.paper import Kind, PaperConfig, PaperNetwork, firing_rates
from models.classes import DDD17_CLASSES
from models.coding import direct_code, history_code, poisson_code
from models.datasets import voc2012
from models.errors import TrainingError
from models.training.config import CropPhase, TrainConfig
from models.training.evaluate import confusion_report
from models.training.losses import set_cross_entropy
from models.training.prefetch import phase_at
from models.training.protocol_data import Sample, data_of
from models.training.task import Batches, LossPart, Score

KINDS: dict[str, Kind] = {"paper-deeplab": "deeplab", "paper-fcn": "fcn"}


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
        self._data = data_of(config, root)

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
