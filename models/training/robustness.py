"""What a network still sees when sensor or input are off, beside its ANN twin on exactly the same events.

    python -m models.training.robustness --model edge-s --twin edge-s-ann --out docs/results/robustness-edge-s.json \\
        --plot docs/results/robustness-edge-s.png

The drive is CamVid-events ``val``, as one stream with the state carried on. Each perturbation of
``models/training/perturb.py`` is applied at several strengths; everything is drawn from one seed. With
``--frame-model`` a network that sees pictures is tried too, on VOC2012 ``val`` at its own size, with perturbed frames
and with the fast gradient sign method.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models import zoo
from models.architectures.paper import Firing, PaperConfig, forward_graph, normed_layers, resize, synapses
from models.classes import UNLABELLED
from models.coding import FRAME_MEAN, InputCoding, direct_code, window_generator
from models.datasets import camvid, voc2012
from models.datasets.stills import Still
from models.emulator import EmulatorConfig
from models.events import EventBatch
from models.machine import describe_machine
from models.runtime.model import SegmentationModel
from models.runtime.protocol import FrameModel
from models.training import perturb
from models.training.command import run, this_command, write_json
from models.training.evaluate import SENSOR, WINDOW_US, LabelledWindow, drive_windows, evaluate_model
from models.training.metrics import confusion, mean_iou

NOMINAL = EmulatorConfig()
HOT_RATE_HZ = 300.0
"""Events of a hot pixel in a second: ten in a window, more than a network counts of them."""

BATCH = 8
# Colours that remain apart for the colour-blind (Okabe and Ito) and lines that do so in grey.
SNN_LINE, ANN_LINE = {"color": "#0072b2", "marker": "o"}, {"color": "#d55e00", "marker": "s", "linestyle": "--"}


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive before and after the nominal sensor.

    Attributes
    ----------
    frames : list of Still
    windows : list of LabelledWindow
        The events that the nominal sensor makes of the frames.
    """

    frames: list[Still]
    windows: list[LabelledWindow]


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A way of spoiling a drive.

    Attributes
    ----------
    name : str
    axis : str
        What the strength is, for the axis of a plot.
    strengths : tuple of float
        In ascending order.
    nominal : float
        The one of them that changes nothing.
    apply : callable
        ``apply(drive, strength, seed)`` gives the perturbed windows.
    """

    name: str
    axis: str
    strengths: tuple[float, ...]
    nominal: float
    apply: Callable[[Drive, float, int], list[LabelledWindow]]


EventChange = Callable[[EventBatch, int, float, perturb.Seed], EventBatch]


def _each_window(change: EventChange) -> Callable[[Drive, float, int], list[LabelledWindow]]:
    """Perturb window after window; ``change(events, t_start, strength, seed)`` draws from a seed for each window."""

    def apply(drive: Drive, strength: float, seed: int) -> list[LabelledWindow]:
        return [
            replace(window, events=change(window.events, window.t_start, strength, (seed, k)))
            for k, window in enumerate(drive.windows)
        ]

    return apply


def _hot_pixels(drive: Drive, share: float, seed: int) -> list[LabelledWindow]:
    pixels = perturb.choose_hot_pixels(SENSOR, share, seed)
    fire = _each_window(
        lambda events, start, rate, each: perturb.add_hot_pixels(
            events, SENSOR, start, start + WINDOW_US, pixels, rate, each
        )
    )
    return fire(drive, HOT_RATE_HZ, seed)


def _other_sensor(config: Callable[[float], EmulatorConfig]) -> Callable[[Drive, float, int], list[LabelledWindow]]:
    """Emulate the drive again, with the sensor that a strength stands for; its noise has the emulator's own seed."""
    return lambda drive, strength, _: list(drive_windows(drive.frames, config(strength)))


PERTURBATIONS = (
    Perturbation(
        "background_noise",
        "added noise, Hz per pixel",
        (0, 1, 2, 5, 10),
        0,
        _each_window(
            lambda events, start, rate, seed: perturb.add_noise(events, SENSOR, start, start + WINDOW_US, rate, seed)
        ),
    ),
    Perturbation(
        "dropped_events",
        "share of events lost",
        (0, 0.1, 0.25, 0.5, 0.75),
        0,
        _each_window(lambda events, _, share, seed: perturb.drop_events(events, share, seed)),
    ),
    Perturbation("hot_pixels", "share of hot pixels", (0, 0.002, 0.005, 0.01, 0.02), 0, _hot_pixels),
    Perturbation(
        "polarity_flips",
        "share of polarities flipped",
        (0, 0.05, 0.1, 0.25, 0.5),
        0,
        _each_window(lambda events, _, share, seed: perturb.flip_polarity(events, share, seed)),
    ),
    Perturbation(
        "contrast_threshold",
        "contrast threshold, × nominal",
        (0.5, 0.75, 1, 1.5, 2),
        1,
        _other_sensor(lambda scale: perturb.scale_contrast(NOMINAL, scale)),
    ),
    Perturbation(
        "threshold_spread",
        "threshold mismatch σ, ln units",
        (0, NOMINAL.threshold_sigma, 0.06, 0.1, 0.15),
        NOMINAL.threshold_sigma,
        _other_sensor(lambda sigma: perturb.spread_thresholds(NOMINAL, sigma)),
    ),
    Perturbation(
        "low_light",
        "light, × nominal",
        (0.01, 0.03, 0.1, 0.3, 1),
        1,
        _other_sensor(lambda gain: perturb.low_light(NOMINAL, gain)),
    ),
    Perturbation(
        "refractory_period",
        "refractory period, ms",
        (0, 1, 5, 15, 30),
        0,
        _other_sensor(lambda ms: perturb.slow_pixels(NOMINAL, round(1000 * ms))),
    ),
)


def sweep(
    drive: Drive,
    snn: SegmentationModel,
    ann: SegmentationModel | None,
    seed: int,
    perturbations: Sequence[Perturbation],
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Score both networks on the same perturbed events, for each perturbation and strength.

    Returns
    -------
    list of dict
        For each perturbation its ``name``, ``axis``, ``nominal`` strength and ``points``: ``strength``, mean
        ``events_per_window``, and of each network ``miou`` and ``class_iou``, of the spiking one ``firing_rate``.
    """

    def scores(model: SegmentationModel, windows: Sequence[LabelledWindow], *names: str) -> dict[str, Any]:
        result = evaluate_model(model, windows)
        return {name: result[name] for name in names}

    def point(windows: Sequence[LabelledWindow]) -> dict[str, Any]:
        return {
            "events_per_window": round(sum(len(w.events) for w in windows) / len(windows)),
            "snn": scores(snn, windows, "miou", "firing_rate", "class_iou"),
            "ann": None if ann is None else scores(ann, windows, "miou", "class_iou"),
        }

    unperturbed = point(drive.windows)
    results = []
    for p in perturbations:
        points = []
        for strength in p.strengths:
            found = unperturbed if strength == p.nominal else point(p.apply(drive, strength, seed))
            points.append({"strength": strength, **found})
            twin = f", twin {found['ann']['miou']:.4f}" if ann else ""
            progress(f"{p.name} {strength:g}: mIoU {found['snn']['miou']:.4f}{twin}")
        results.append({"name": p.name, "axis": p.axis, "nominal": p.nominal, "points": points})
    return results


class FrameNetwork(Protocol):
    """A network that sees pictures and can be differentiated, a spiking one through its surrogate gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """Colours (B, 3, H, W) in [0, 1] to logits (B, classes, h, w); the same answer for the same input."""
        ...


class PaperFrames:
    """A paper network with folded weights over frames, differentiable from end to end.

    It answers as ``models.runtime.protocol.FrameModel`` does. Spikes have the surrogate derivative of the network's
    training; the Poisson code, which draws the same chances for every picture, that of its mean, the identity.

    Parameters
    ----------
    config : PaperConfig
    weights : mapping of Tensor
        As ``models.architectures.paper.fold_bntt`` gives them.
    coding : InputCoding
        Of frames.
    """

    def __init__(self, config: PaperConfig, weights: Mapping[str, Tensor], coding: InputCoding) -> None:
        self.config = config
        self.coding = coding
        self._weights = weights
        self._synapses = synapses(config)
        self._fire = Firing(config.surrogate, config.threshold)

    def forward(self, x: Tensor) -> Tensor:
        """Colours (B, 3, H, W) in [0, 1], of the network's own size, to logits (B, classes, H, W)."""
        steps = self.config.steps if self.config.spiking else 1
        x_seq = self._code(x - torch.tensor(FRAME_MEAN)[:, None, None] / 255, steps)
        membranes: dict[str, Tensor] = {}
        total = self._step(x_seq[0], 0, membranes)
        for k in range(1, steps):
            total = total + self._step(x_seq[k], k, membranes)
        return resize(total / steps, x.shape[-2:])

    def _code(self, x: Tensor, steps: int) -> Tensor:
        if self.coding.code != "poisson":
            return direct_code(x, steps)
        chances = torch.rand((steps, 1, *x.shape[1:]), generator=window_generator(self.coding.seed, 0))
        drawn = (chances < x.abs()).to(x.dtype) * x.sign()
        return drawn.detach() + (x - x.detach())

    def _step(self, x: Tensor, step: int, membranes: dict[str, Tensor]) -> Tensor:
        """Input current of the readout; the membranes are replaced."""
        normed = normed_layers(self.config)

        def synapse(name: str, spikes: Tensor) -> Tensor:
            s = self._synapses[name]
            weight, bias = self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
            if s.transposed:
                return F.conv_transpose2d(spikes, weight, bias, stride=2)
            current = F.conv2d(spikes, weight, bias, padding=s.padding, dilation=s.dilation)
            if not (self.config.spiking and name in normed):
                return current
            scale, shift = (self._weights[f"{name}.{key}"][step].reshape(-1, 1, 1) for key in ("scale", "shift"))
            return current * scale + shift

        def fire(name: str, current: Tensor) -> Tensor:
            if not self.config.spiking:
                return current.relu() if name in normed else current
            h = current + self.config.keep * membranes[name] if name in membranes else current
            spikes: Tensor = self._fire(h - self.config.threshold)
            # The reset is detached, as in training.
            membranes[name] = h - self.config.threshold * spikes.detach()
            return spikes

        return forward_graph(self.config, x, synapse, fire)


def fgsm(
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    epsilon: float,
    *,
    lowest: float = 0.0,
    highest: float = 1.0,
) -> Tensor:
    """The fast gradient sign method (Goodfellow, Shlens and Szegedy, ICLR 2015): ``clip(x + ε · sign(∂L/∂x))``.

    The loss is the cross-entropy over the labelled pixels, the logits made bilinearly as large as the labels. A spiking
    network is attacked through the surrogate gradients that it was trained with.

    Parameters
    ----------
    forward : callable
        ``x`` to logits (B, classes, h, w). The input may be anything that it takes: frames, or polarity counts
        (T, B, 2, H, W) of a stream.
    x : Tensor
        Left as it is.
    target : int64 Tensor, (B, H, W)
        Class ids, ``UNLABELLED`` where there are none.
    epsilon : float
        Largest change of a value.
    lowest, highest : float
        Range of the input.

    Returns
    -------
    Tensor
        Of the shape of ``x``, detached.
    """
    with torch.enable_grad():
        attacked = x.detach().clone().requires_grad_()
        logits = F.interpolate(forward(attacked), size=target.shape[-2:], mode="bilinear", align_corners=False)
        # Summed, so that no picture's gradient depends on the others of its batch.
        loss = F.cross_entropy(logits, target, ignore_index=UNLABELLED, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
    return (x + epsilon * gradient.sign()).clamp(lowest, highest).detach()


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


def plot(results: Sequence[Mapping[str, Any]], path: Path, names: Mapping[str, str]) -> None:
    """Draw mIoU over strength, one small panel for each perturbation, and save it as a picture.

    Parameters
    ----------
    results : sequence of mapping
        As :func:`sweep` and :func:`frame_sweep` give them.
    path : Path
        The picture; its suffix tells the format.
    names : mapping of str
        Names of the networks, under ``snn`` and ``ann``, for the legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.5 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    scores = [p[key]["miou"] for result in results for p in result["points"] for key in ("snn", "ann") if p[key]]
    for panel, result in zip(grid.flat, results, strict=False):
        strengths = [p["strength"] for p in result["points"]]
        panel.axvline(result["nominal"], color="0.8", linewidth=1, zorder=0)
        for key, style in (("snn", SNN_LINE), ("ann", ANN_LINE)):
            if all(p[key] for p in result["points"]):
                values = [p[key]["miou"] for p in result["points"]]
                panel.plot(strengths, values, label=names[key], markersize=4, linewidth=1.5, **style)
        if min(strengths) > 0 and max(strengths) >= 20 * min(strengths):
            panel.set_xscale("log")
        panel.set_title(result["name"].replace("_", " "), fontsize=10)
        panel.set_xlabel(result["axis"], fontsize=9)
        panel.set_ylim(0, 1.1 * max(scores))
        panel.grid(axis="y", color="0.92")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    for row in grid:
        row[0].set_ylabel("mIoU", fontsize=9)
    for panel in grid.flat[len(results) :]:
        panel.set_visible(False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def report(
    name: str,
    twin: str | None = None,
    *,
    frames: int = 0,
    seed: int = 0,
    root: Path | None = None,
    folder: Path = zoo.ZOO,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Robustness of a network of the zoo on CamVid-events ``val``, beside its ANN twin.

    Parameters
    ----------
    name, twin : str
        Networks of the zoo.
    frames : int
        Labelled frames of the drive to use; 0 for all.
    seed : int
        Of every draw but those of the emulator, whose own is 0.
    root : Path, optional
        Data root.
    folder : Path
        Folder of trained networks.
    progress : callable
        Told about each score.

    Raises
    ------
    UnknownModelError
        If the zoo has no such network.
    DatasetNotFoundError
        If CamVid is not under the data root.
    """
    snn = zoo.load(name, folder)
    ann = zoo.load(twin, folder) if twin else None
    stills = camvid.load("val", root)
    # The drive's first frame makes no events.
    stills = stills[: frames + 1] if frames else stills
    drive = Drive(stills, list(drive_windows(stills, NOMINAL)))
    return {
        "data": f"CamVid-events val: {len(stills) - 1} labelled frames at 15 Hz, windows of {WINDOW_US} µs as one "
        f"stream with carried state, simulated sensor {SENSOR}",
        "labelled_frames": len(stills) - 1,
        "windows": len(drive.windows),
        "seed": seed,
        "machine": describe_machine(),
        "models": {"snn": name, "ann": twin},
        "hot_pixel_rate_hz": HOT_RATE_HZ,
        "perturbations": sweep(drive, snn, ann, seed, PERTURBATIONS, progress),
    }


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


def frame_network(model: FrameModel) -> PaperFrames:
    """A frame network of the zoo in a form that can be differentiated."""
    return PaperFrames(model.runtime.config, model.runtime._weights, model.coding)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edge-s", help="a spiking network of the zoo")
    parser.add_argument("--twin", help="its ANN twin in the zoo")
    parser.add_argument("--frames", type=int, default=0, help="labelled frames of the drive to use; 0: all")
    parser.add_argument("--frame-model", help="a spiking network of the zoo that sees pictures")
    parser.add_argument("--frame-twin", help="its ANN twin")
    parser.add_argument("--pictures", type=int, default=50, help="VOC2012 pictures for the frame network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: one for each core")
    parser.add_argument("--out", type=Path, required=True, help="the report, JSON")
    parser.add_argument("--plot", type=Path, help="a picture of it, PNG")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result = {
        "command": this_command("robustness"),
        **report(args.model, args.twin, frames=args.frames, seed=args.seed, progress=_print_at_once),
    }
    results = list(result["perturbations"])
    if args.frame_model:
        model = zoo.load(args.frame_model, expect=FrameModel)
        twin = zoo.load(args.frame_twin, expect=FrameModel) if args.frame_twin else None
        result["frames"] = {
            "models": {"snn": args.frame_model, "ann": args.frame_twin},
            **frame_report(
                frame_network(model),
                frame_network(twin) if twin else None,
                args.pictures,
                model.coding.height,
                args.seed,
            ),
        }
        results += result["frames"]["perturbations"]
    write_json(result, args.out)
    if args.plot:
        plot(results, args.plot, {"snn": f"spiking {args.model}", "ann": f"ANN twin {args.twin}"})


def _print_at_once(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run(main)
