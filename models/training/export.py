"""Put a trained network and its ANN twin into the zoo: fold their batch norms, score them, write their cards.

    python -m models.training.export --name edge-s --run runs/edge-s --twin runs/edge-s-ann
    python -m models.training.export --name paper-fcn --run runs/paper-fcn --twin runs/paper-fcn-ann

The twin becomes ``NAME-ann``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import zoo
from models.architectures.edge import EdgeDeepLab, fold_batch_norm
from models.architectures.paper import PaperNetwork, fold_bntt
from models.classes import DDD17_CLASSES
from models.datasets import voc2012
from models.errors import TrainingError
from models.runtime.protocol import FrameModel
from models.runtime.streaming import StreamingModel
from models.training import protocol_task
from models.training.checkpoint import load_run
from models.training.command import run
from models.training.config import TrainConfig, make_config
from models.training.evaluate import LabelledDrive, LabelledWindow, evaluate_frames, evaluate_model, find_drive
from models.training.history import HISTORY

if TYPE_CHECKING:
    from models.zoo import ZooModel

TEST_DATA = {
    "camvid-events": "CamVid-events val: 100 labelled frames at 15 Hz, 200 windows of 33.3 ms, simulated sensor 346x260"
}
FRAME_TEST_DATA = "VOC2012 val, 223 pictures of animals, at their own size (longest side 144)"
DATA = [
    {
        "name": "CamVid train (SegNet split), less the pictures that checkpoints are chosen by",
        "use": "pictures and labels",
        "licence": "research; CC BY-NC 4.0 as the SegNet tutorial distributes it",
    },
    {
        "name": "IDD-Lite",
        "use": "pictures and set-valued labels",
        "licence": "IDD research licence",
    },
]
FRAME_DATA = [
    {"name": "PASCAL VOC2012 train_aug, animals only", "use": "pictures and labels", "licence": "VOC terms"},
]
FRAME_NOTES = [
    "Trained and scored on a part of VOC2012 (pictures of cats, cows, dogs, horses and sheep, some with people, chairs "
    "and sofas, longest side 144): its mean IoU is over the classes that occur, and cannot be compared with published "
    "figures for all 21.",
    "The checkpoint was chosen on pictures of train_aug that were held out from training.",
]
NOTES = [
    "Simulated: trained on events made from pictures under a simulated camera motion, with people and vehicles moving "
    "in front of them, through models/emulator.py. No real event recording was seen in training.",
    "Real: the motion of the test drive (CamVid val, 0016E5 frames 07959 to 08159, 15 Hz). Its events are simulated "
    "all the same. No frame of it was trained on, but it is a part of a drive of which other parts are in CamVid "
    "train; the nearest training picture is one second away.",
    "The checkpoint, and the bias of each class that was added to a streaming network's readout, were chosen on "
    "pictures of CamVid train that were held out from training; the test drive was scored once the run was over.",
    "Weights are derived from data under non-commercial research terms.",
]


def training_card(run: dict[str, Any], name: str) -> dict[str, Any]:
    """What a card says of how a network was trained, and the run that it started from if it did not from scratch."""
    config = run["config"]
    budget = f"--updates {config['updates']}" if config["updates"] else f"--minutes {config['minutes']:g}"
    twin = " --twin" if config["twin"] else ""
    grown = f" --grow-from {config['grow_from']}" if config["grow_from"] else ""
    base = name.removesuffix("-ann")
    started = {"started_from": training_card(run["started_from"], name)} if "started_from" in run else {}
    return started | {
        "command": f"python -m models.training.train --recipe {base}{twin}{grown} {budget} --seed {config['seed']} "
        f"--threads {run['machine']['threads']} --out runs/{name}",
        "settings": config,
        "updates": run["updates_done"],
        "curve": run["curve"],
        "minutes": run["minutes_taken"],
        "material": run["data"],
        "held_out": {key: value for key, value in run["held_out"].items() if key != "confusion_matrix"},
        "machine": run["machine"],
        "data": _data(run["data"]),
    }


def export(
    name: str, run_folder: Path, twin_folder: Path, folder: Path = zoo.ZOO, *, data: str = "camvid-events"
) -> dict[str, Any]:
    """Write a network and its twin to a folder of trained networks; the network's card is returned.

    A network of events is scored on the drive ``data``, as ``models.training.evaluate`` names it.

    Raises
    ------
    TrainingError
        If a folder does not hold a finished run of that kind.
    """
    tests = _Tests(find_drive(data))
    cards: dict[str, dict[str, Any]] = {}
    for named, source, twin in ((f"{name}-ann", twin_folder, True), (name, run_folder, False)):
        network, run = load_run(source)
        if run["config"]["twin"] != twin:
            raise TrainingError(f"{source} is not a run of {'an ANN twin' if twin else 'a spiking network'}")
        config = make_config(run["config"])
        card: dict[str, Any] = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "training": training_card(run, named),
            "licence": "non-commercial research, after the data that it was trained on",
            "notes": _notes(config, run),
        }
        _save(named, network, config, card, tests.drive, folder)
        model = zoo.load_any(named, folder)
        card["evaluation"] = {
            "data": FRAME_TEST_DATA if _takes_frames(config) else TEST_DATA.get(data, data),
            "command": f"python -m models.training.evaluate --model {named}"
            + ("" if data == "camvid-events" else f" --data {data}"),
            **tests.score(model),
        }
        if not twin:
            beside = cards[f"{name}-ann"]
            card["evaluation"]["ann_twin"] = {
                "what": f"{name}-ann: the same convolutions with ReLU and no membranes, {_sees(model)}; trained beside "
                f"it with the same settings and budget, {beside['training']['updates']} updates to its "
                f"{card['training']['updates']}",
                **next(beside["evaluation"][key] for key in ("stream", "frames") if key in beside["evaluation"]),
            }
        _save(named, network, config, card, tests.drive, folder)
        cards[named] = card
    return cards[name]


def _notes(config: TrainConfig, run: dict[str, Any]) -> list[str]:
    if _takes_frames(config):
        return FRAME_NOTES
    if "training_drives" in run["data"]:
        return ["Real: trained on event recordings; the checkpoint was chosen on others that were held out."]
    return NOTES


def _data(about: dict[str, Any]) -> list[dict[str, str]]:
    if "training_drives" in about:
        return [
            {"name": drive, "use": "events and labels", "licence": "its source's"} for drive in about["training_drives"]
        ]
    return FRAME_DATA if "VOC2012 train_aug" in about["training_pictures"] else DATA


def _takes_frames(config: TrainConfig) -> bool:
    return config.model in protocol_task.KINDS and config.protocol.coding.source == "frames"


def _sees(model: ZooModel) -> str:
    if isinstance(model, StreamingModel):
        return f"sees the last {HISTORY} windows at once"
    return "sees the same input once"


def _save(
    name: str,
    network: EdgeDeepLab | PaperNetwork,
    config: TrainConfig,
    card: dict[str, Any],
    drive: LabelledDrive,
    folder: Path,
) -> None:
    about_sensor = {
        "window_us": drive.window_us,
        "sensor": {"width": drive.sensor.width, "height": drive.sensor.height},
    }
    if isinstance(network, EdgeDeepLab):
        classes = [{"id": c.id, "name": c.name, "color": list(c.color)} for c in DDD17_CLASSES]
        weights = fold_batch_norm(network)
        zoo.save(name, network.config, weights, about_sensor | {"classes": classes} | card, folder)
        return
    coding = config.protocol.coding
    if config.twin:
        coding = replace(coding, code="direct")
    classes_of = voc2012.CLASSES if coding.source == "frames" else DDD17_CLASSES
    about = {} if coding.source == "frames" else about_sensor
    zoo.save_paper(name, network.config, coding, fold_bntt(network), classes_of, about | card, folder)


class _Tests:
    """Test data, read when it is first needed."""

    def __init__(self, drive: LabelledDrive) -> None:
        self.drive = drive

    @cached_property
    def windows(self) -> list[LabelledWindow]:
        return list(self.drive.read())

    @cached_property
    def pictures(self) -> voc2012.Pictures:
        return voc2012.load("val")

    def score(self, model: ZooModel) -> dict[str, Any]:
        """Scores of a network on the data of its kind."""
        if isinstance(model, FrameModel):
            return {"frames": evaluate_frames(model, self.pictures)}
        score = partial(evaluate_model, model, self.windows, sensor=self.drive.sensor, window_us=self.drive.window_us)
        scores = {"stream": score()}
        if isinstance(model, StreamingModel) and model.runtime.config.spiking:
            scores["reset_every_window"] = score(carry_state=False)
        return scores


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="edge-s")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--twin", type=Path, required=True, help="folder of the ANN twin's run")
    parser.add_argument("--data", default="camvid-events", help="camvid-events, ddd17:RECORDING or dsec:SEQUENCE")
    args = parser.parse_args()
    print(json.dumps(export(args.name, args.run, args.twin, data=args.data)["evaluation"], indent=2))


if __name__ == "__main__":
    run(main)
