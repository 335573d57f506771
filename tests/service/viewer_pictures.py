"""The pictures of the viewer in the documentation, made anew: ``python -m tests.service.viewer_pictures [FOLDER]``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.service.browser import Viewer, running_chromium
from tests.service.harness import REPOSITORY, running_server

WINDOWS = 110
"""In the middle of the drive."""


def main(folder: str = str(REPOSITORY / "docs")) -> None:
    """Play the demo recording, and take a picture as on a desk and one as on a phone."""
    with running_server() as server, running_chromium() as driver:
        page = Viewer(driver, server)
        page.prefer(prefers_color_scheme="dark")
        for name, width, height in (("viewer", 1440, 900), ("viewer-phone", 360, 780)):
            page.resize(width, height)
            page.open()
            page.wait_for_windows(WINDOWS)
            page.screenshot(Path(folder) / f"{name}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
