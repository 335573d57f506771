"""The pictures of the viewer in the documentation, made anew: ``python -m tests.service.viewer_pictures [FOLDER]``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.service.browser import Viewer, running_chromium
from tests.service.harness import REPOSITORY, running_server

WINDOWS = 80
"""So many that the charts have something to show."""
SCENE = (70, 120)
"""Windows in which the car drives."""


def main(folder: str = str(REPOSITORY / "docs")) -> None:
    """Play the demo recording, and take a picture as on a desk and one as on a phone."""
    with running_server() as server, running_chromium() as driver:
        page = Viewer(driver, server)
        page.prefer(prefers_color_scheme="dark")
        for name, width, height in (("viewer", 1440, 900), ("viewer-phone", 360, 780)):
            page.resize(width, height)
            page.open()
            page.wait_for_windows(WINDOWS)
            page.wait(lambda: page.get("state") == "playing" and page.last("window") in range(*SCENE), "that scene")
            page.screenshot(Path(folder) / f"{name}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
