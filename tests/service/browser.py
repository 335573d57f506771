"""Chromium as the tests use it, and the viewer's page as a user and ``window.spikeseg`` see it."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from models.events import EventBatch, SensorSize
from tests.service.harness import PATIENCE_S

CHROMIUM = "/usr/bin/chromium"
CHROMEDRIVER = "/usr/bin/chromedriver"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FAKE_CAMERA = ("--use-fake-device-for-media-stream",)
"""A camera that shows a moving picture; whether a page may use it is asked as for a real one."""
ALLOWED = ("--use-fake-ui-for-media-stream",)
"""Whoever asks for a camera gets it."""
VIEWER_SENSOR = SensorSize(346, 260)


def require_browser() -> None:
    """Skip the test where there is no Chromium; on the machine that tests changes, fail."""
    missing = [path for path in (CHROMIUM, CHROMEDRIVER) if not Path(path).exists()]
    if missing:
        reason = f"no browser: {' and '.join(missing)} missing (apt-get install chromium chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def running_chromium(flags: Sequence[str] = ()) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own."""
    profile = tempfile.mkdtemp(prefix="chromium-")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    driver.set_script_timeout(PATIENCE_S)
    try:
        yield driver
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


class Viewer:
    """The page as a user, and ``window.spikeseg`` as a test, see it."""

    def __init__(self, driver: webdriver.Chrome, server: str) -> None:
        self.driver = driver
        self.url = server.rstrip("/") + "/"

    def open(self) -> None:
        """Load the page; what the console said before is forgotten."""
        self.console_errors()
        self.driver.get(self.url)

    def leave(self) -> None:
        """Close its sessions."""
        self.driver.get("about:blank")

    @contextmanager
    def script_on_load(self, source: str) -> Iterator[None]:
        """Have a script run before those of the page."""
        script = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
        yield
        self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)

    def resize(self, width: int, height: int) -> None:
        """Make the window so large; narrow ones are phones."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700},
        )

    def prefer(self, **features: str) -> None:
        """What the system asks of pages, such as ``prefers_color_scheme="light"``."""
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

    def get(self, name: str) -> Any:
        """A property of ``window.spikeseg``."""
        return self.driver.execute_script(f"return window.spikeseg?.{name}")

    def last(self, name: str) -> int:
        """A number of the newest result; -1 while there is none."""
        result = self.get("lastResult")
        return -1 if result is None else int(result[name])

    def element(self, selector: str) -> WebElement:
        """The first element that a selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def elements(self, selector: str) -> list[WebElement]:
        """All elements that a selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What stands there."""
        return str(self.driver.execute_script("return document.querySelector(arguments[0])?.innerText", selector))

    def press(self, selector: str) -> None:
        """Click on a control."""
        self.element(selector).click()

    def keys(self, *keys: str) -> None:
        """Press keys with the focus in no control."""
        self.driver.execute_script("document.activeElement?.blur?.()")
        self.element("body").send_keys(*keys)

    def stage(self, number: int) -> str:
        """Selector of a session's part of the page."""
        return f".stage[aria-label='Session {number}']"

    def banner(self) -> str | None:
        """What a banner says, if one is shown."""
        return next((banner.text for banner in self.elements(".banner") if banner.is_displayed()), None)

    def press_in_banner(self, label: str) -> None:
        """Press a button of the banner."""
        self.driver.find_element(
            By.XPATH, f"//div[contains(@class, 'banner') and not(@hidden)]//button[.='{label}']"
        ).click()

    def choose_file(self, path: Path) -> None:
        """Open a recording in the session that is chosen."""
        self.element("#file").send_keys(str(path))

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until something is so; its value."""
        end = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            if time.monotonic() > end:
                state = [self.get(n) for n in ("sessions", "lastResult")]
                pytest.fail(f"waited in vain for {what}; sessions, result: {state}, banner: {self.banner()}")
            time.sleep(0.05)
        return value

    def wait_for_windows(self, more: int, session: int | None = None) -> None:
        """Wait for so many more answers, to the chosen session or to the one with a number."""

        def answered() -> int:
            if session is None:
                return int(self.get("windowsAnswered") or 0)
            return int(self.get("sessions")[session - 1]["windowsAnswered"])

        goal = answered() + more
        self.wait(lambda: answered() >= goal, f"{more} more windows")

    def pause(self) -> dict[str, Any]:
        """Freeze the view; metadata of the window that is shown then."""
        self.wait(lambda: self.get("shown"), "a window")
        self.press(".stage:has(.choose[aria-pressed=true]) .play")
        self.wait(lambda: self.get("state") == "paused", "the pause")
        shown: dict[str, Any] = self.get("shown")
        return shown

    def pixels(self, canvas: str) -> list[int]:
        """The RGBA bytes of a canvas, as a sum of each channel and the number of opaque pixels."""
        found: list[int] = self.run(
            """
            const canvas = document.querySelector(a[0]);
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            const sums = [0, 0, 0, 0];
            for (let i = 0; i < data.length; i += 4) {
              for (let c = 0; c < 3; c++) sums[c] += data[i + c] * ((i >> 2) % 251);
              if (data[i + 3] > 0) sums[3]++;
            }
            return sums;
            """,
            canvas,
        )
        return found

    def slide(self, selector: str, value: float) -> None:
        """Drag a slider to a value."""
        self.run(
            """
            const slider = document.querySelector(a[0]);
            slider.value = a[1];
            slider.dispatchEvent(new Event('input', { bubbles: true }));
            slider.dispatchEvent(new Event('change', { bubbles: true }));
            """,
            selector,
            value,
        )

    def console_errors(self) -> list[str]:
        """Errors in the console since it was asked last."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]

    def screenshot(self, path: Path) -> None:
        """Take a picture of the window."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(shot["data"]))

    def run(self, body: str, *args: Any) -> Any:
        """Run the body of an async function in the page; ``args`` are its arguments ``a[0]``, ``a[1]``…"""
        outcome = self.driver.execute_async_script(
            """
            const [body, a, done] = [arguments[0], arguments[1], arguments[arguments.length - 1]];
            const AsyncFunction = (async () => {}).constructor;
            const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
            const text = (buffer) => btoa(Array.from(new Uint8Array(buffer), (b) => String.fromCharCode(b)).join(''));
            new AsyncFunction('a', 'bytes', 'text', body)(a, bytes, text).then(
              (value) => done({ value }),
              (error) => done({ error: String(error.stack) }),
            );
            """,
            body,
            list(args),
        )
        assert "error" not in outcome, outcome["error"]
        return outcome["value"]


def recording(n: int = 5000, duration_us: int = 1_500_000, seed: int = 0) -> EventBatch:
    """Events all over the sensor that begin at 7 s."""
    rng = np.random.default_rng(seed)
    return EventBatch(
        np.sort(rng.integers(7_000_000, 7_000_000 + duration_us, n)),
        rng.integers(0, VIEWER_SENSOR.width, n).astype(np.uint16),
        rng.integers(0, VIEWER_SENSOR.height, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
    )


def b64(data: bytes) -> str:
    """Bytes as the scripts of ``Viewer.run`` take them."""
    return base64.b64encode(data).decode()
