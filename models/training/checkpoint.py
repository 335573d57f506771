"""Checkpoints of a training run: what resuming needs, and the network that a finished run leaves."""

from __future__ import annotations

import json
import pickle  # nosec B403
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.architectures.edge import EdgeDeepLab
from models.architectures.paper import PaperNetwork
from models.errors import TrainingError
from models.training.config import TrainConfig, make_config
from models.training.shipped import SCHEME, load_shipped

LAST, BEST, WEIGHTS, RUN = "last.pt", "best.pt", "weights.pt", "run.json"
"""What resuming needs; the weights that scored best so far; what a finished run leaves."""


def save_last(folder: Path, values: dict[str, Any]) -> None:
    """Write what resuming needs; a crash while writing leaves the one before."""
    written = folder / f"{LAST}.part"
    torch.save(values, written)
    written.replace(folder / LAST)


def load_last(folder: Path, config: TrainConfig) -> dict[str, Any]:
    """What ``save_last`` wrote.

    Raises
    ------
    TrainingError
        If there is nothing to resume, or the run had other settings than this one.
    """
    try:
        values: dict[str, Any] = torch.load(folder / LAST, weights_only=True, map_location="cpu")
    except FileNotFoundError as error:
        raise TrainingError(f"{folder} holds no run to resume: {LAST} is missing") from error
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{folder / LAST} is damaged: {error}") from error
    stored, asked = json.loads(values["config"]), json.loads(json.dumps(asdict(config)))
    budget = ("minutes", "updates", "patience", "reports")
    other = [key for key in asked if key not in budget and stored.get(key) != asked[key]]
    if other:
        raise TrainingError(f"the run in {folder} had other settings: {', '.join(other)}")
    return values


def load_start(source: str) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network that ``source`` names, and what is known of its training.

    Parameters
    ----------
    source : str
        The folder of a finished run, or ``zoo:NAME`` for a network that ships.

    Raises
    ------
    TrainingError
        If there is none.
    """
    if source.startswith(SCHEME):
        return load_shipped(source.removeprefix(SCHEME))
    return load_run(Path(source))


def load_run(folder: Path) -> tuple[EdgeDeepLab | PaperNetwork, dict[str, Any]]:
    """The network of a finished run, in evaluation mode, and what the run says of itself.

    Raises
    ------
    TrainingError
        If the folder holds no finished run.
    """
    # The tasks read runs too: teachers, and networks to grow from.
    from models.training.tasks import make_network

    try:
        run: dict[str, Any] = json.loads((folder / RUN).read_text())
        network = make_network(make_config(run["config"]))
        network.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True, map_location="cpu"))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{folder} holds no finished run: {error}") from error
    return network.eval(), run
