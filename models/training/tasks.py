"""The networks that can be trained, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import TrainingError
from models.training import stream_task
from models.training.config import TrainConfig
from models.training.stream_task import StreamTask
from models.training.task import Task

MODELS = tuple(sorted(stream_task.ARCHITECTURES))


def make_task(
    config: TrainConfig, root: Path | None = None, device: torch.device | None = None, rank: int = 0
) -> Task:
    """The task of a config's model, with its data.

    Raises
    ------
    TrainingError
        If there is no such model.
    DatasetNotFoundError
        If its data is not under the data root.
    """
    if config.model in stream_task.ARCHITECTURES:
        return StreamTask(config, root, device, rank)
    raise TrainingError(f"no model {config.model!r}; there are: {', '.join(MODELS)}")


def make_network(config: TrainConfig) -> Any:
    """A config's network before training."""
    network: nn.Module = stream_task.make_network(config)
    return network
