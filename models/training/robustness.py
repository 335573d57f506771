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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models import zoo
from models.datasets import camvid
from models.datasets.stills import Still
from models.emulator import EmulatorConfig
from models.events import EventBatch
from models.machine import describe_machine
from models.runtime.model import SegmentationModel
from models.runtime.protocol import FrameModel
from models.training import perturb
from models.training.adversarial import frame_network
from models.training.command import run, this_command, write_json
from models.training.evaluate import SENSOR, WINDOW_US, LabelledWindow, drive_windows, evaluate_model
from models.training.frame_robustness import frame_report
from models.training.robustness_plot import plot

NOMINAL = EmulatorConfig()


HOT_RATE_HZ = 300.0


"""Events of a hot pixel in a second: ten in a window, more than a network counts of them."""


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
    snn = zoo.load_events(name, folder)
    ann = zoo.load_events(twin, folder) if twin else None
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
