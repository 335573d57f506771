"""Where the command begins: the libraries that it needs may not be installed."""

from __future__ import annotations

import sys

EXIT_MISSING = 6


def main() -> int:
    """Run the command; its exit status."""
    try:
        from clients.cli.main import main as run
    except ModuleNotFoundError as error:
        name = (error.name or "a library").partition(".")[0]
        message = f"the command needs {name}, which is not installed: pip install 'spikeseg[clients]'"
        print(f"error: {message}", file=sys.stderr)
        return EXIT_MISSING
    return run()
