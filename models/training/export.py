"""Put a trained streaming network and its ANN twin into the zoo: fold their batch norms, score them, write their cards.

    python -m models.training.export --name edge-s --run runs/edge-s --twin runs/edge-s-ann

The twin becomes ``NAME-ann``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from models import zoo
from models.architectures.edge import EdgeDeepLab, fold_batch_norm
from models.classes import DDD17_CLASSES
from models.errors import TrainingError
from models.training.checkpoint import load_run
from models.training.evaluate import SENSOR, WINDOW_US, camvid_events, evaluate_model
from models.training.history import HISTORY

TEST_DATA = "CamVid-events val: 100 labelled frames at 15 Hz, 200 windows of 33.3 ms, simulated sensor 346x260"
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
NOTES = [
    "Simulated: trained on events made from pictures under a simulated camera motion, with people and vehicles moving in "
    "front of them, through models/emulator.py. No real event recording was seen in training.",
    "Real: the motion of the test drive (CamVid val, 0016E5 frames 07959 to 08159, 15 Hz). Its events are simulated all "
    "the same. No frame of it was trained on, but it is a part of a drive of which other parts are in CamVid train; the "
    "nearest training picture is one second away.",
    "The checkpoint, and the bias of each class that was added to the readout, were chosen on pictures of CamVid train "
    "that were held out from training; the test drive was scored once the run was over.",
    "Weights are derived from data under non-commercial research terms.",
]


def training_card(run: dict[str, Any], name: str) -> dict[str, Any]:
    """What a card says of how a network was trained."""
    config = run["config"]
    budget = f"--updates {config['updates']}" if config["updates"] else f"--minutes {config['minutes']:g}"
    twin = " --twin" if config["twin"] else ""
    grown = f" --grow-from {config['grow_from']}" if config["grow_from"] else ""
    base = name.removesuffix("-ann")
    return {
        "command": f"python -m models.training.train --recipe {base}{twin}{grown} {budget} --seed {config['seed']} "
        f"--threads {run['machine']['threads']} --out runs/{name}",
        "settings": config,
        "updates": run["updates_done"],
        "minutes": run["minutes_taken"],
        "pictures": run["data"],
        "held_out": {key: run["held_out"][key] for key in ("miou", "class_iou", "class_bias")},
        "machine": run["machine"],
        "data": DATA,
    }


def _streaming(folder: Path, *, twin: bool) -> tuple[EdgeDeepLab, dict[str, Any]]:
    network, run = load_run(folder)
    if not isinstance(network, EdgeDeepLab) or run["config"]["twin"] != twin:
        raise TrainingError(f"{folder} is not a run of {'an ANN twin' if twin else 'a spiking streaming network'}")
    return network, run


def export(name: str, run_folder: Path, twin_folder: Path, folder: Path = zoo.ZOO) -> dict[str, Any]:
    """Write a network and its twin to a folder of trained networks; the network's card is returned.

    Raises
    ------
    TrainingError
        If a folder does not hold a finished run of that kind.
    """
    windows = camvid_events()
    cards: dict[str, dict[str, Any]] = {}
    for named, source, twin in ((f"{name}-ann", twin_folder, True), (name, run_folder, False)):
        network, run = _streaming(source, twin=twin)
        weights = fold_batch_norm(network)
        card: dict[str, Any] = {
            "window_us": WINDOW_US,
            "sensor": {"width": SENSOR.width, "height": SENSOR.height},
            "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in DDD17_CLASSES],
            "parameters": sum(w.numel() for w in weights.values()),
            "training": training_card(run, named),
            "licence": "non-commercial research, after the data that it was trained on",
            "notes": NOTES,
        }
        zoo.save(named, network.config, weights, card, folder)
        model = zoo.load(named, folder)
        card["evaluation"] = {
            "data": TEST_DATA,
            "command": f"python -m models.training.evaluate --model {named}",
            "stream": evaluate_model(model, windows),
        }
        if not twin:
            card["evaluation"]["reset_every_window"] = evaluate_model(model, windows, carry_state=False)
            beside = cards[f"{name}-ann"]
            card["evaluation"]["ann_twin"] = {
                "what": f"{name}-ann: same convolutions, ReLU, no membranes; sees the last {HISTORY} "
                "windows at once; trained beside it with the same settings and budget, "
                f"{beside['training']['updates']} updates",
                **beside["evaluation"]["stream"],
            }
        zoo.save(named, network.config, weights, card, folder)
        cards[named] = card
    return cards[name]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="edge-s")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--twin", type=Path, required=True, help="folder of the ANN twin's run")
    args = parser.parse_args()
    print(json.dumps(export(args.name, args.run, args.twin)["evaluation"], indent=2))


if __name__ == "__main__":
    main()
