"""Put a trained network and its ANN twin into the zoo: fold their batch norms, score them, write their cards.

    python -m models.training.export --name edge-s --run runs/edge-s --twin runs/edge-s-ann
    python -m models.training.export --name paper-fcn --run runs/paper-fcn --twin runs/paper-fcn-ann
    python -m models.training.export --name edge-s --rescore

The twin becomes ``NAME-ann``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
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
from models.training.cards import notes_of, scored_on, training_card
from models.training.checkpoint import load_run
from models.training.command import run
from models.training.config import TrainConfig, make_config
from models.training.evaluate import TEST_DRIVE, LabelledDrive, evaluate_frames, evaluate_model, find_drive
from models.training.history import HISTORY

if TYPE_CHECKING:
    from models.zoo import ZooModel


def require_same_settings(run: dict[str, Any], twin_run: dict[str, Any]) -> None:
    """Raise TrainingError, naming the settings, unless a network and its twin were trained alike."""
    own = ("twin", "grow_from", "teacher")
    a, b = ({key: value for key, value in r["config"].items() if key not in own} for r in (run, twin_run))
    other = [key for key in a if a[key] != b.get(key)]
    if other:
        raise TrainingError(f"the network and its twin were trained with other settings: {', '.join(other)}")


def export(
    name: str, run_folder: Path, twin_folder: Path, folder: Path = zoo.ZOO, *, data: str = TEST_DRIVE
) -> dict[str, Any]:
    """Write a network and its twin to a folder of trained networks; the network's card is returned.

    A network of events is scored on the drive ``data``, as ``models.training.evaluate`` names it.

    Raises
    ------
    TrainingError
        If a folder does not hold a finished run of that kind, or they were trained with different settings, or on
        ``data``.
    """
    runs = {f"{name}-ann": (twin_folder, True), name: (run_folder, False)}
    loaded = {}
    for named, (source, twin) in runs.items():
        network, run = load_run(source)
        if run["config"]["twin"] != twin:
            raise TrainingError(f"{source} is not a run of {'an ANN twin' if twin else 'a spiking network'}")
        loaded[named] = network, run
    require_same_settings(loaded[name][1], loaded[f"{name}-ann"][1])
    drive = find_drive(data)
    for named, (network, run) in loaded.items():
        config = make_config(run["config"])
        if data in (*config.stream.drives, *config.stream.held_out_drives, *config.protocol.drives):
            raise TrainingError(f"{named} was trained on {data}, or its checkpoint chosen by it: it is no test")
        card = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "training": training_card(run),
            "licence": "non-commercial research, after the data that it was trained on",
            "notes": notes_of(run),
        }
        _save(named, network, config, card, drive, folder)
    return [rescore(named, folder, data=data) for named in loaded][-1]


def rescore(name: str, folder: Path = zoo.ZOO, *, data: str = TEST_DRIVE) -> dict[str, Any]:
    """Score a network of the zoo anew and write it into its card, which is returned.

    A spiking network's card has its twin's scores beside its own: score the twin first.
    """
    model = zoo.load_any(name, folder)
    card = {key: value for key, value in model.card.items() if key != "evaluation"}
    of_frames = isinstance(model, FrameModel)
    evaluation: dict[str, Any] = {
        "data": scored_on(data, of_frames=of_frames),
        "command": f"python -m models.training.evaluate --model {name}"
        + ("" if data == TEST_DRIVE else f" --data {data}"),
        **scores_of(model, find_drive(data)),
    }
    twin = f"{name}-ann"
    if twin in zoo.names(folder):
        beside = zoo.load_any(twin, folder).card
        evaluation["ann_twin"] = {
            "what": f"{twin}: the same convolutions with ReLU and no membranes, {_sees(model)}; trained with the same "
            f"settings and budget, {beside['training']['updates_in_all']} updates to "
            f"{card['training']['updates_in_all']} in all",
            **(beside["evaluation"]["frames"] if of_frames else beside["evaluation"]["stream"]),
        }
    card["evaluation"] = evaluation
    zoo.write_card(card, folder)
    return card


def scores_of(model: ZooModel, drive: LabelledDrive) -> dict[str, Any]:
    """Scores of a network on the test data of its kind."""
    if isinstance(model, FrameModel):
        return {"frames": evaluate_frames(model, voc2012.load("val"))}

    def score(*, carry_state: bool) -> dict[str, Any]:
        return evaluate_model(
            model, drive.read(), sensor=drive.sensor, window_us=drive.window_us, carry_state=carry_state
        )

    scores = {"stream": score(carry_state=True)}
    if isinstance(model, StreamingModel) and model.runtime.config.spiking:
        scores["reset_every_window"] = score(carry_state=False)
    return scores


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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="edge-s")
    parser.add_argument("--run", type=Path, help="folder of the training run")
    parser.add_argument("--twin", type=Path, help="folder of the ANN twin's run")
    parser.add_argument("--rescore", action="store_true", help="only score what is in the zoo anew")
    parser.add_argument("--data", default=TEST_DRIVE, help="camvid-events, ddd17:RECORDING or dsec:SEQUENCE")
    args = parser.parse_args()
    if args.rescore:
        twins = [f"{args.name}-ann"] if f"{args.name}-ann" in zoo.names() else []
        card = [rescore(name, data=args.data) for name in (*twins, args.name)][-1]
    elif args.run and args.twin:
        card = export(args.name, args.run, args.twin, data=args.data)
    else:
        parser.error("--run and --twin are needed, or --rescore")
    print(json.dumps(card["evaluation"], indent=1))


if __name__ == "__main__":
    run(main)
