"""Put a trained network into the zoo: fold its batch norm, score it, and write its card.

python -m models.training.export --name edge-s --run runs/edge-s --twin runs/edge-s-ann
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from models import zoo
from models.architectures.edge import EdgeConfig, EdgeDeepLab, fold_batch_norm
from models.classes import DDD17_CLASSES
from models.training.evaluate import SENSOR, WINDOW_US, camvid_events, confusion_report, evaluate_model
from models.training.history import HISTORY
from models.training.train import evaluate_stream

DATA = [
    {
        "name": "CamVid train (367 stills, SegNet split)",
        "use": "pictures and labels",
        "licence": "research; CC BY-NC 4.0 as the SegNet tutorial distributes it",
    },
    {
        "name": "IDD-Lite (1403 pictures)",
        "use": "pictures and set-valued labels",
        "licence": "IDD research licence",
    },
]
NOTES = [
    "Trained on simulated events: pictures under a simulated camera motion, through models/emulator.py. No real event "
    "recording was seen in training.",
    "Scored on simulated events from a real 15 Hz drive (CamVid val, 0016E5 frames 07959 to 08159). No frame of it was "
    "trained on, but it is a part of a drive of which other parts are in CamVid train; the nearest training picture is "
    "one second away. Checkpoints were not chosen by this score: the weights are the running mean "
    "at the end of the run. "
    "Two pilot runs of a few minutes were watched on this drive before the settings were fixed.",
    "Weights are derived from data under non-commercial research terms.",
]


def load_run(folder: Path) -> tuple[EdgeDeepLab, dict[str, Any]]:
    """The network of a training run, and the run's settings."""
    run: dict[str, Any] = json.loads((folder / "run.json").read_text())
    stored = run["architecture"]
    stored["pyramid_rates"] = tuple(stored["pyramid_rates"])
    network = EdgeDeepLab(EdgeConfig(**stored))
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return network.eval(), run


def export(name: str, run_folder: Path, twin_folder: Path, folder: Path = zoo.ZOO) -> dict[str, Any]:
    """Write ``NAME.safetensors`` and ``NAME.json`` to a folder of trained networks; the card is returned."""
    network, run = load_run(run_folder)
    twin, twin_run = load_run(twin_folder)
    windows = camvid_events()
    weights = fold_batch_norm(network)
    budget = f"--updates {run['updates']}" if run["updates"] else f"--minutes {run['minutes']:g}"
    options = f"{budget} --threads {run['machine']['threads']} --seed {run['seed']} --out runs/{name}"
    settings = {key: value for key, value in run.items() if key not in ("architecture", "model", "twin")}
    card: dict[str, Any] = {
        "window_us": WINDOW_US,
        "sensor": {"width": SENSOR.width, "height": SENSOR.height},
        "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in DDD17_CLASSES],
        "parameters": sum(w.numel() for w in weights.values()),
        "training": {
            "command": f"python -m models.training.train --model {run['model']} {options}",
            "settings": settings,
            "data": DATA,
        },
        "licence": "non-commercial research, after the data that it was trained on",
        "notes": NOTES,
    }
    zoo.save(name, network.config, weights, card, folder)
    model = zoo.load(name, folder)
    twin_matrix, _ = evaluate_stream(twin, windows)
    card["evaluation"] = {
        "data": "CamVid-events val: 100 labelled frames at 15 Hz, 200 windows of 33.3 ms, simulated sensor 346x260",
        "command": f"python -m models.training.evaluate --model {name}",
        "stream": evaluate_model(model, windows),
        "reset_every_window": evaluate_model(model, windows, carry_state=False),
        "ann_twin": {
            "what": f"same convolutions, ReLU, no state; sees the last {HISTORY} windows at once; "
            f"trained beside it for {budget} with the same settings, {twin_run['updates_done']} updates",
            **confusion_report(twin_matrix),
        },
    }
    zoo.save(name, network.config, weights, card, folder)
    return card


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
