"""Libraries that only some sources and outputs need; see ``[project.optional-dependencies]``."""

from __future__ import annotations

import importlib
from typing import Any

from clients.errors import MissingExtraError


def require(module: str, purpose: str, *, extra: str = "clients-all") -> Any:
    """Import a module when it is needed.

    Parameters
    ----------
    module : str
    purpose : str
        What for, for the message: as ``"reading rosbags"``.
    extra : str
        The extra of this project that installs it.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = (error.name or module).partition(".")[0]
        raise MissingExtraError(
            f"{purpose} needs {name}, which is not installed: pip install 'spikeseg[{extra}]'"
        ) from error
