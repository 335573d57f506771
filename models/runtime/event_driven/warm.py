"""Build what is written in C beforehand, so that no start waits for a compiler and no server needs one.

python -m models.runtime.event_driven.warm            # for this processor, into the user's cache
python -m models.runtime.event_driven.warm --image    # for every processor, into the package itself

These are the event-driven kernel and the passes over events (``models/native``).
"""

from __future__ import annotations

import argparse
import platform
import sys

from models.errors import BackendUnavailableError
from models.native.events import build_for_image, event_library
from models.runtime.event_driven.library import BESIDE, INSTRUCTIONS, build_all, kernel


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 1 if something cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m models.runtime.event_driven.warm", description=__doc__)
    parser.add_argument("--image", action="store_true", help="build for every processor, into the package")
    args = parser.parse_args(arguments)
    try:
        if args.image:
            x86 = platform.machine().lower() in ("x86_64", "amd64")
            names = tuple(INSTRUCTIONS) if x86 else ("baseline",)
            for path in (*build_all(BESIDE, names), *build_for_image(BESIDE, names)):
                print(path)
        else:
            print(kernel().path)
            library = event_library()
            if library is None:
                return 1
            print(library.path)
    except BackendUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
