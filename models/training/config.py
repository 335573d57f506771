"""Settings of a training run: a TOML recipe, overridden by the command line.

The recipes that made the shipped weights lie beside this file, in ``recipes/``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from models.architectures.paper import Surrogate
from models.coding import InputCoding
from models.errors import TrainingError

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run with its own size of the simulated sensor and range of picture sizes.

    Small views first are cheap; large ones at the end show the network what it will be served.

    Attributes
    ----------
    share : float
        Of the run's budget.
    height, width : int
    scales : (float, float)
        Range of the picture's size, relative to a width of 346 pixels.
    together : int
        If above 0, so many windows are shown in one step, from rest, and every batch has new pictures: what things look
        like is learned from many more pictures in the same time, before what carrying a state is good for.
    """

    share: float
    height: int
    width: int
    scales: tuple[float, float]
    together: int = 0


@dataclass(frozen=True, slots=True)
class StreamData:
    """The event sequences that a streaming network learns from.

    Attributes
    ----------
    phases : tuple of Phase
    chunk : int
        Windows that are backpropagated through.
    chunks : (int, int)
        Fewest and most chunks that a row stays with one picture.
    pastes, movers : int
        Most things of rare classes pasted into a picture, and moving in front of it.
    rare_views : float
        Share of the views that are placed around something of a rare class.
    camvid_share : float
        Share of the sequences that are made from CamVid; the rest is from IDD-Lite.
    noise_hz : float
        Mean rate of the background events of a pixel; each picture has a rate of its own, exponentially distributed.
    hot_pixels : float
        Mean share of the pixels that fire without cause, likewise.
    unjudged : int
        Windows after a reset that the loss leaves out: they have seen too little.
    drives, held_out_drives : tuple of str
        Recordings to learn from in place of simulated sequences, and to choose checkpoints by, as
        ``models.training.evaluate`` names them. Pictures, phases and noise then do not matter.
    """

    phases: tuple[Phase, ...] = (
        Phase(0.55, 144, 192, (0.5, 1.0)),
        Phase(0.25, 192, 256, (0.7, 1.2)),
        Phase(0.2, 260, 346, (1.0, 1.2)),
    )
    chunk: int = 5
    chunks: tuple[int, int] = (1, 3)
    pastes: int = 3
    movers: int = 2
    rare_views: float = 0.4
    camvid_share: float = 0.65
    noise_hz: float = 0.2
    hot_pixels: float = 0.0
    unjudged: int = 2
    drives: tuple[str, ...] = ()
    held_out_drives: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CropPhase:
    """A part of a run that sees square crops of ``side`` cells of the input: small ones first are cheap."""

    share: float
    side: int


@dataclass(frozen=True, slots=True)
class ProtocolData:
    """What a paper network learns from: windows of simulated events (CamVid, IDD-Lite), or VOC2012 pictures.

    Attributes
    ----------
    coding : InputCoding
    steps : int
        T of the spiking network.
    surrogate : "linear", "fast-sigmoid" or "exponential"
    phases : tuple of CropPhase
    camvid_share : float
        Share of the event windows that are made from CamVid; the rest is from IDD-Lite.
    drives, held_out_drives : tuple of str
        Recordings to learn from in place of simulated sequences, as in ``StreamData``.
    ddd17_frames : bool
        Learn from Ev-SegNet's tensors of single DDD17 windows, as the paper does.
    """

    coding: InputCoding = field(default_factory=lambda: InputCoding(code="direct", normalisation="count"))
    steps: int = 5
    surrogate: Surrogate = "linear"
    phases: tuple[CropPhase, ...] = (CropPhase(0.5, 32), CropPhase(0.5, 64))
    camvid_share: float = 0.65
    drives: tuple[str, ...] = ()
    held_out_drives: tuple[str, ...] = ()
    ddd17_frames: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """Weights of the parts of the loss.

    Attributes
    ----------
    dice, lovasz : float
        Of the overlap losses beside cross-entropy.
    weight_cap : float
        Largest class weight of the cross-entropy; the commonest class has 1.
    rate : float
        Of the firing-rate penalty.
    rate_target : float
        Firing rate that no layer should exceed.
    teacher : float
        Of the distillation from the ``teacher`` run, if one is given.
    """

    dice: float = 0.5
    lovasz: float = 0.0
    weight_cap: float = 6.0
    rate: float = 0.2
    rate_target: float = 0.08
    teacher: float = 1.0


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of a training run.

    Attributes
    ----------
    model : str
        A name from ``models.training.tasks``.
    twin : bool
        Train the ANN twin.
    minutes : float
        Time budget; the learning rate falls to zero over it.
    updates : int
        Budget in updates, in place of one in time if above 0.
    batch : int
        Sequences or pictures side by side, for each process.
    optimizer : "adamw" or "sgd"
        SGD has momentum 0.9, as the paper's.
    learning_rate, weight_decay : float
        Leaks, norms and biases do not decay.
    warm_up : int
        Updates over which the learning rate rises.
    clip : float
        Largest norm of a gradient.
    ema : float
        Decay of the running mean of the weights, which is what is scored and kept.
    reports : int
        Times that the held-out pictures are scored.
    patience : int
        Stop after so many scores without a better one; 0 never.
    precision : "float32" or "bfloat16"
        Of the convolutions, by autocast; the membranes' recurrence follows its input.
    compile : bool
        Run the network through ``torch.compile``.
    seed : int
    teacher : str
        What to distil from: the folder of a finished run, or ``zoo:NAME``.
    grow_from : str
        What to start from, as for ``teacher``: the same network or a smaller one.
    stream, protocol : StreamData, ProtocolData
        Whichever the model asks for.
    loss : Loss
    """

    model: str = "edge-s"
    twin: bool = False
    minutes: float = 60.0
    updates: int = 0
    batch: int = 8
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    warm_up: int = 50
    clip: float = 1.0
    ema: float = 0.995
    reports: int = 10
    patience: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    seed: int = 0
    teacher: str = ""
    grow_from: str = ""
    stream: StreamData = field(default_factory=StreamData)
    protocol: ProtocolData = field(default_factory=ProtocolData)
    loss: Loss = field(default_factory=Loss)


# pydantic looks for this on the class; as a field it would be a setting.
for _kind in (Phase, StreamData, InputCoding, CropPhase, ProtocolData, Loss, TrainConfig):
    setattr(_kind, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010


def make_config(values: dict[str, Any]) -> TrainConfig:
    """A checked config from plain values, as TOML and JSON hold them.

    Raises
    ------
    TrainingError
        If a setting is unknown or of the wrong kind; the message names it.
    """
    try:
        config: TrainConfig = TypeAdapter(TrainConfig).validate_python(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise TrainingError(f"the training settings cannot be used: {faults}") from error
    _check_ranges(config)
    return config


def _check_ranges(config: TrainConfig) -> None:
    stream, protocol, loss = config.stream, config.protocol, config.loss
    wrong = {
        "minutes must be above 0": config.minutes <= 0,
        "updates, warm_up, patience and seed must be at least 0": min(
            config.updates, config.warm_up, config.patience, config.seed
        )
        < 0,
        "batch and reports must be at least 1": min(config.batch, config.reports) < 1,
        "learning_rate and clip must be above 0": min(config.learning_rate, config.clip) <= 0,
        "ema must lie in [0, 1)": not 0 <= config.ema < 1,
        "loss.rate_target and loss.weight_cap must be above 0": min(loss.rate_target, loss.weight_cap) <= 0,
        "phases must not be empty": not stream.phases or not protocol.phases,
        "stream.chunk must be at least 1, and stream.chunks a range from 1": not (
            stream.chunk >= 1 and 1 <= stream.chunks[0] <= stream.chunks[1]
        ),
        "protocol.steps must be at least 1": protocol.steps < 1,
        "protocol.ddd17_frames asks for coding of events with normalisation column, not of a history": (
            protocol.ddd17_frames
            and (protocol.coding.source, protocol.coding.normalisation, protocol.coding.code == "history")
            != ("events", "column", False)
        ),
    }
    faults = [fault for fault, is_so in wrong.items() if is_so]
    if faults:
        raise TrainingError(f"the training settings cannot be used: {'; '.join(faults)}")


def read_recipe(path: Path) -> dict[str, Any]:
    """The settings in a TOML recipe, unchecked.

    Raises
    ------
    TrainingError
        If there is none, or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"the recipe {path} cannot be read: {error}") from error
