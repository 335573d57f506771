"""Convert an ANN twin into a spiking network, and compare it with the directly trained one, step for step.

    python -m models.training.convert --model paper-deeplab --out docs/results/conversion-paper-deeplab.json

Conversion with balanced thresholds (Diehl et al., IJCNN 2015; Rueckauer et al., 2017): every ReLU becomes an
integrate-and-fire neuron without leak, whose threshold is a high percentile of the ReLU's activations on training
pictures, and which is reset by subtraction. A spike is worth the threshold, so that the firing rate over T steps comes
to the activation as T grows. The converted network is the twin ``NAME-ann``; its mean output after T steps is scored
for each T on the labelled windows of CamVid-events ``val``, each from rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from models import zoo
from models.architectures.edge import READOUT, class_mask
from models.architectures.paper import normed_layers, resize, synapses
from models.coding import cells_64
from models.datasets import camvid
from models.encoding import polarity_counts
from models.errors import TrainingError
from models.machine import describe_machine
from models.runtime.protocol import ProtocolModel, picture_mask
from models.runtime.streaming import StreamingModel
from models.training import holdout
from models.training.command import run, this_command, write_json
from models.training.evaluate import SENSOR, LabelledWindow, camvid_events, confusion_report
from models.training.history import HISTORY
from models.training.metrics import Confusion, confusion
from models.training.protocol_data import cells_of_counts

Neurons = Callable[[str, Tensor], Tensor]
Graph = Callable[[Tensor, Neurons], Tensor]
Thresholds = dict[str, Tensor]

CHECKPOINTS = (1, 2, 5, 10, 20, 50, 100, 200)
CALIBRATION_PICTURES = 24
SAMPLED = 2**18


@dataclass(frozen=True, slots=True)
class Ann:
    """An ANN as conversion needs it.

    Attributes
    ----------
    graph : callable
        ``graph(x, neurons) -> logits``: its convolutions with whatever stands for the ReLUs.
    linear : frozenset of str
        Layers that have no ReLU, and so never fire.
    mask : callable
        Logits to a mask of the sensor.
    """

    graph: Graph
    linear: frozenset[str]
    mask: Callable[[Tensor], np.ndarray[Any, np.dtype[np.uint8]]]


def balance_thresholds(
    ann: Ann,
    inputs: Iterable[Tensor],
    percentile: float = 99.9,
    scope: Literal["layer", "channel"] = "layer",
    scale: float = 1.0,
) -> Thresholds:
    """Thresholds by layer: a percentile of the positive side of each ReLU's activations.

    Parameters
    ----------
    ann : Ann
    inputs : iterable of Tensor, (B, C, H, W)
    percentile : float
        Above the largest activations, so that outliers do not make all others fire rarely.
    scope : "layer" or "channel"
        One threshold for each layer, or for each of its channels.
    scale : float
        Factor on the thresholds; the paper's authors use 0.7.

    Returns
    -------
    dict of Tensor, (channels, 1, 1)
    """
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str, current: Tensor) -> Tensor:
        if name in ann.linear:
            return current
        active = current.relu()
        by_channel = active.transpose(0, 1).flatten(1)
        values = by_channel if scope == "channel" else by_channel.reshape(1, -1)
        seen.setdefault(name, []).append(_percentile(values, percentile).expand(len(by_channel)))
        return active

    for x in inputs:
        ann.graph(x, watch)
    thresholds = {}
    for name, values in seen.items():
        level = torch.stack(values).mean(0)
        # A channel that is never active never fires, whatever its threshold.
        thresholds[name] = scale * torch.where(level > 0, level, torch.ones_like(level))[:, None, None]
    return thresholds


def _percentile(values: Tensor, percentile: float) -> Tensor:
    """The percentile of each row."""
    thinned = values[:, :: max(1, values.shape[1] // SAMPLED)]
    return torch.quantile(thinned, percentile / 100, dim=1)


def integrate_and_fire(current: Tensor, v: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """One step of neurons without leak, reset by subtraction; a spike is worth the threshold θ.

        h = v + current;   s = θ if h ≥ θ else 0;   v' = h − s

    Parameters
    ----------
    current, v : Tensor, (B, C, h, w)
    threshold : Tensor, (C, 1, 1)

    Returns
    -------
    output, v : Tensor, (B, C, h, w)
    """
    h = v + current
    out = (h >= threshold) * threshold
    return out, h - out


@torch.inference_mode()
def run_converted(ann: Ann, thresholds: Thresholds, x: Tensor, steps: int) -> Iterator[tuple[Tensor, float]]:
    """Mean logits and firing rate (spikes for each neuron and step) after 1, 2, … steps with the same input."""
    membranes: dict[str, Tensor] = {}
    spikes = 0
    neurons_seen = 0
    total: Tensor | None = None

    def fire(name: str, current: Tensor) -> Tensor:
        nonlocal spikes, neurons_seen
        if name in ann.linear:
            return current
        # Half a threshold at the start halves the error of cutting rates down to whole spikes.
        v = membranes[name] if name in membranes else 0.5 * thresholds[name].expand_as(current)
        out, membranes[name] = integrate_and_fire(current, v, thresholds[name])
        spikes += int(torch.count_nonzero(out))
        neurons_seen += out.numel()
        return out

    for k in range(1, steps + 1):
        logits = ann.graph(x, fire)
        total = logits.clone() if total is None else total + logits
        yield total / k, spikes / neurons_seen


def score_converted(
    ann: Ann,
    thresholds: Thresholds,
    samples: Sequence[tuple[Tensor, np.ndarray[Any, np.dtype[np.uint8]]]],
    classes: int,
    checkpoints: Sequence[int] = CHECKPOINTS,
) -> list[dict[str, Any]]:
    """Scores after each number of steps of ``checkpoints``; samples are network inputs (1, C, H, W) and masks."""
    matrices: dict[int, Confusion] = {k: np.zeros((classes, classes), np.int64) for k in checkpoints}
    rates = dict.fromkeys(checkpoints, 0.0)
    for x, truth in samples:
        for k, (logits, rate) in enumerate(run_converted(ann, thresholds, x, max(checkpoints)), 1):
            if k in matrices:
                matrices[k] += confusion(truth, ann.mask(logits), classes)
                rates[k] += rate / len(samples)
    return [{"steps": k, **confusion_report(matrices[k]), "firing_rate": round(rates[k], 4)} for k in checkpoints]


def as_ann(model: StreamingModel | ProtocolModel) -> Ann:
    """A twin of the zoo as conversion needs it.

    Raises
    ------
    TrainingError
        If it is not an ANN.
    """
    if model.runtime.config.spiking:
        raise TrainingError(f"model {model.name!r} spikes: only an ANN twin can be converted")
    if isinstance(model, StreamingModel):
        stride = model.runtime.config.output_stride * model.grid(SENSOR).factor
        return Ann(
            model.runtime.run_graph,
            frozenset({READOUT}),
            lambda logits: class_mask(logits, SENSOR.height, SENSOR.width, stride),
        )
    config, cells = model.runtime.config, (model.coding.height, model.coding.width)
    return Ann(
        model.runtime.run_graph,
        frozenset(synapses(config)) - frozenset(normed_layers(config)),
        lambda logits: picture_mask(resize(logits, cells), SENSOR.height, SENSOR.width),
    )


def network_input(model: StreamingModel | ProtocolModel, recent: Sequence[LabelledWindow]) -> Tensor:
    """What a twin sees at the end of a stretch of a drive, (1, C, H, W)."""
    if isinstance(model, ProtocolModel):
        counts = torch.from_numpy(cells_64(recent[-1].events, SENSOR, model.coding.height, model.coding.width))
        return model.coding.normalise(counts)[None]
    grid, clip = model.grid(SENSOR), model.runtime.config.count_clip
    stack = [torch.from_numpy(polarity_counts(w.events, grid, clip)) for w in recent[-HISTORY:]]
    silent = [torch.zeros_like(stack[0])] * (HISTORY - len(stack))
    return torch.cat([*silent, *stack])[None]


def calibration_inputs(model: StreamingModel | ProtocolModel, pictures: int, root: Path | None = None) -> list[Tensor]:
    """Network inputs (1, C, H, W) at the end of drives over training pictures."""
    training, _ = holdout.split(camvid.load("train", root))
    chosen = training[:: max(1, len(training) // pictures)][:pictures]
    views = holdout.natural_views(SENSOR.height, SENSOR.width, HISTORY)
    if isinstance(model, ProtocolModel):
        side = model.coding.height, model.coding.width
        drives = holdout.drives(chosen, views, 255)
        return [model.coding.normalise(cells_of_counts(drive.counts[-1], *side)) for drive in drives]
    drives = holdout.drives(chosen, views, model.runtime.config.count_clip)
    return [drive.counts[:, 0].flatten(0, 1)[None] for drive in drives]


def report(
    name: str,
    *,
    windows: Sequence[LabelledWindow],
    frames: int = 50,
    checkpoints: Sequence[int] = CHECKPOINTS,
    percentile: float = 99.9,
    scope: Literal["layer", "channel"] = "layer",
    scale: float = 1.0,
    folder: Path = zoo.ZOO,
    root: Path | None = None,
) -> dict[str, Any]:
    """Scores of a network's converted twin after each number of steps, beside the twin's and the network's own.

    All are of the same ``frames`` labelled windows, each answered from rest, with the windows before it for those that
    see them.
    """
    direct, twin = (zoo.load_events(n, folder) for n in (name, f"{name}-ann"))
    ann = as_ann(twin)
    thresholds = balance_thresholds(ann, calibration_inputs(twin, CALIBRATION_PICTURES, root), percentile, scope, scale)
    labelled = [k for k, window in enumerate(windows) if window.truth is not None]
    chosen = labelled[:: max(1, len(labelled) // frames)][:frames]
    stretches = [(windows[max(0, k + 1 - HISTORY) : k + 1], windows[k].truth) for k in chosen]
    samples = [(network_input(twin, stretch), truth) for stretch, truth in stretches if truth is not None]
    # From rest, a streaming network takes one step for each of the windows that the twin sees at once; with its state
    # carried on, one for each answer.
    steps = HISTORY if isinstance(direct, StreamingModel) else direct.steps
    return {
        "model": name,
        "data": f"CamVid-events val, {len(chosen)} labelled windows, each from rest",
        "thresholds": {"percentile": percentile, "scope": scope, "scale": scale},
        "direct": {"steps": steps, "steps_for_an_answer": direct.steps, **score_from_rest(direct, stretches)},
        "twin": score_from_rest(twin, stretches),
        "converted": score_converted(ann, thresholds, samples, len(twin.classes), checkpoints),
    }


def score_from_rest(
    model: StreamingModel | ProtocolModel, stretches: Sequence[tuple[Sequence[LabelledWindow], Any]]
) -> dict[str, Any]:
    """Scores of a network at the end of stretches of a drive, each begun from rest."""
    total = np.zeros((len(model.classes), len(model.classes)), np.int64)
    rates = []
    for stretch, truth in stretches:
        state = model.initial_state(SENSOR)
        for window in stretch:
            answer = model.segment(state, window.events, SENSOR)
            state = answer.state
        total += confusion(truth, answer.mask, len(model.classes))
        rates.append(answer.activity.firing_rate)
    return {**confusion_report(total, model.classes), "firing_rate": round(float(np.mean(rates)), 4)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="paper-deeplab", help="a directly trained network with a twin in the zoo")
    parser.add_argument("--frames", type=int, default=50, help="labelled windows that are scored")
    parser.add_argument("--steps", type=int, default=max(CHECKPOINTS), help="most time steps")
    parser.add_argument("--percentile", type=float, default=99.9)
    parser.add_argument("--scope", choices=("layer", "channel"), default="layer")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the thresholds")
    parser.add_argument("--out", type=Path, required=True, help="the report, JSON")
    args = parser.parse_args()
    if args.frames < 1 or args.steps < 1 or not 0 < args.percentile <= 100 or args.scale <= 0:
        parser.error("--frames and --steps must be at least 1, --percentile in (0, 100], --scale above 0")
    result = report(
        args.model,
        windows=camvid_events(),
        frames=args.frames,
        checkpoints=[k for k in CHECKPOINTS if k <= args.steps],
        percentile=args.percentile,
        scope=args.scope,
        scale=args.scale,
    )
    write_json({"command": this_command("convert"), **result, "machine": describe_machine()}, args.out)
    for point in result["converted"]:
        print(f"{point['steps']:4d} steps: mIoU {point['miou']:.4f}")
    print(f"twin: {result['twin']['miou']:.4f}; directly trained: {result['direct']['miou']:.4f}")


if __name__ == "__main__":
    run(main)
