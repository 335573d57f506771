"""The networks that can be trained, by name."""

from __future__ import annotations

from pathlib import Path

import torch

from models.architectures.edge import EdgeDeepLab
from models.architectures.paper import PaperNetwork
from models.errors import TrainingError
from models.training import protocol_task, stream_task
from models.training.config import TrainConfig
from models.training.protocol_task import ProtocolTask
from models.training.stream_task import StreamTask
from models.training.task import Task

MODELS = (*stream_task.ARCHITECTURES, *protocol_task.KINDS)


def make_task(config: TrainConfig, root: Path | None = None, device: torch.device | None = None, rank: int = 0) -> Task:
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
    if config.model in protocol_task.KINDS:
        return ProtocolTask(config, root, device, rank)
    raise TrainingError(f"no model {config.model!r}; there are: {', '.join(MODELS)}")


def make_network(config: TrainConfig) -> EdgeDeepLab | PaperNetwork:
    """A config's network before training."""
    if config.model in protocol_task.KINDS:
        return protocol_task.make_network(config)
    return stream_task.make_network(config)
