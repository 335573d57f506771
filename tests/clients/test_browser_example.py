"""The example of a page of one's own, in a real browser, against a server that allows its origin."""

from __future__ import annotations

import subprocess
import sys

from tests.service.browser import ALLOWED, FAKE_CAMERA, Viewer, require_browser, running_chromium
from tests.service.harness import PATIENCE_S, REPOSITORY, running_server
from tests.service.real_servers import free_port

GROUND = [0x33, 0x33, 0x33]
CORNER = "return [...document.querySelector('#picture').getContext('2d').getImageData(159, 0, 1, 1).data].slice(0, 3)"


def test_the_example_of_a_page_shows_masks_of_its_scene_and_of_a_webcam() -> None:
    require_browser()
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    with (
        running_server(allowed_origins=origin) as server,
        running_chromium((*FAKE_CAMERA, *ALLOWED)) as driver,
        subprocess.Popen(
            [sys.executable, "-m", "clients.examples.browser", server, str(port)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            page = Viewer(driver, process.stdout.readline().strip())
            assert page.url.startswith(origin)
            page.driver.get(page.url.removesuffix("/"))
            page.wait(lambda: "of neurons fired" in page.text("#said"), "a window")
            page.wait(lambda: page.pixels("#mask")[3] == 160 * 120, "a mask")
            page.press("#start")
            page.wait(lambda: page.run(CORNER) != GROUND, "the webcam's picture")
            said = page.text("#said")
            page.wait(lambda: page.text("#said") != said, "its windows")
            assert "no webcam" not in page.text("#said")
            # A favicon is what the browser asks for by itself.
            assert [line for line in page.console_errors() if "favicon" not in line] == []
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
