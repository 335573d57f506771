"""Where data sets are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from models.errors import DatasetNotFoundError

ROOT_VARIABLE = "SPIKESEG_DATA"


def data_root(root: Path | None = None) -> Path:
    """The folder that holds the data sets: ``root``, or what the environment variable ``SPIKESEG_DATA`` names.

    Raises
    ------
    DatasetNotFoundError
        If neither is given, or the folder does not exist.
    """
    chosen = root or (Path(os.environ[ROOT_VARIABLE]) if os.environ.get(ROOT_VARIABLE) else None)
    if chosen is None:
        raise DatasetNotFoundError(f"no data root: set {ROOT_VARIABLE} to the folder that holds the data sets")
    if not chosen.is_dir():
        raise DatasetNotFoundError(f"the data root {chosen} is not a folder")
    return chosen


def require_folders(name: str, root: Path, folders: tuple[str, ...], layout: str) -> None:
    """Raise DatasetNotFoundError, with the expected tree, unless every folder is there."""
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    if missing:
        raise DatasetNotFoundError(f"{name} not found: {root} has no {', '.join(missing)}. Expected:\n{layout}")
