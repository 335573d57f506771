"""What the commands ``python -m models.training.…`` share."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.errors import ModelsError


def run(main: Callable[[], None]) -> None:
    """Run a command; an error that the user can do something about is one line on standard error, and exit code 2."""
    try:
        main()
    except ModelsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def this_command(module: str) -> str:
    """The command line that this process was started with, as a user types it."""
    return shlex.join(["python", "-m", f"models.training.{module}", *sys.argv[1:]])


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write a report, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
