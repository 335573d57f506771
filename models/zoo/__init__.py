"""Trained networks: for each, ``NAME.safetensors`` (folded weights) and ``NAME.json`` (its card)."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.classes import DDD17_CLASSES
from models.errors import UnknownModelError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from models.architectures.edge import EdgeConfig
    from models.runtime.streaming import StreamingModel

ZOO = Path(__file__).parent
FORMAT = "spiking-deeplab-edge-1"


def names(folder: Path = ZOO) -> tuple[str, ...]:
    """Names of the trained networks in a folder, in alphabetical order."""
    return tuple(sorted(path.stem for path in folder.glob("*.json")))


def load(name: str, folder: Path = ZOO) -> StreamingModel:
    """Load a trained network.

    Raises
    ------
    UnknownModelError
        If there is none of that name.
    WeightsError
        If its weights or card are missing, damaged, or do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from models.architectures.edge import EdgeConfig
    from models.runtime.edge import EdgeRuntime
    from models.runtime.streaming import StreamingModel

    known = names(folder)
    if name not in known:
        raise UnknownModelError(f"no model {name!r}; there are: {', '.join(known) or 'none'}")
    try:
        card: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        if card["format"] != FORMAT:
            raise WeightsError(f"model {name!r} has format {card['format']!r}, this version reads {FORMAT!r}")
        stored = card["config"]
        config = EdgeConfig(**{f.name: _tuple(stored[f.name]) for f in fields(EdgeConfig)})
        weights = load_file(folder / f"{name}.safetensors")
        return StreamingModel(name, EdgeRuntime(config, weights), DDD17_CLASSES, int(card["window_us"]), card)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise WeightsError(f"model {name!r} cannot be loaded: {type(error).__name__}: {error}") from error


def save(name: str, config: EdgeConfig, weights: dict[str, Tensor], card: dict[str, Any], folder: Path = ZOO) -> None:
    """Write a network's folded weights and card; ``card`` is completed with the format and the config."""
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in weights.items()}, folder / f"{name}.safetensors")
    whole = {"name": name, "format": FORMAT, "config": asdict(config), **card}
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
