"""A camera of the browser as the source of a session, in a real browser with a camera that shows a test picture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from tests.service.browser import ALLOWED, FAKE_CAMERA, Viewer, require_browser, running_chromium
from tests.service.harness import running_server

WATCH_POLICY = """
window.broken = [];
addEventListener('securitypolicyviolation', (event) => window.broken.push(event.blockedURI));
"""
HOST = "drone.test"
"""A name that leads to this machine, so that its pages are in no secure context."""


@pytest.fixture(scope="module")
def with_camera() -> Iterator[webdriver.Chrome]:
    """A browser with a camera that every page may use."""
    require_browser()
    with running_chromium((*FAKE_CAMERA, *ALLOWED)) as driver:
        yield driver


@pytest.fixture
def page(with_camera: webdriver.Chrome, server: str) -> Iterator[Viewer]:
    """The viewer, where a camera may be used."""
    viewer = Viewer(with_camera, server)
    viewer.resize(1440, 900)
    with viewer.script_on_load(WATCH_POLICY):
        viewer.open()
        viewer.wait_for_windows(1)
        yield viewer
    assert viewer.console_errors() == []
    assert viewer.run("return window.broken") == []
    viewer.leave()


def start_camera(page: Viewer, size: str = "320×240", rate: int = 15) -> None:
    """Open the camera by way of the dialog."""
    page.press("#camera")
    page.wait(lambda: "fake_device" in page.text("#camera-device"), "the list of cameras")
    Select(page.element("#camera-size")).select_by_value(size)
    Select(page.element("#camera-fps")).select_by_value(str(rate))
    page.press("#camera-start")
    page.wait(lambda: page.get("sessions")[-1]["kind"] == "camera", "the camera")


def said_in_dialog(page: Viewer) -> str:
    page.press("#camera")
    if page.element("#camera-start").is_enabled():
        page.press("#camera-start")
    return str(page.wait(lambda: page.text("#camera-error"), "what is wrong"))


def test_a_camera_gives_masks_and_its_picture_lies_below(page: Viewer) -> None:
    start_camera(page)
    page.wait_for_windows(20)
    page.wait(lambda: page.last("events") > 1000, "a window with events")
    assert sum(page.get("maskClassCounts").values()) == 320 * 240
    page.wait(lambda: "frames/s" in page.text(".frames"), "the numbers of the frames")
    assert page.get("sessions")[0]["framesSent"] > 5
    assert page.run("return document.querySelector('canvas.input').width") == 320
    assert page.pixels("canvas.input")[0] > 0
    below, above = (
        page.run(f"return Number(getComputedStyle(document.querySelector('canvas.{name}')).zIndex)")
        for name in ("input", "mask")
    )
    assert below < above
    assert page.text("#input-name") == "Picture"


@pytest.mark.parametrize(("size", "rate"), [("346×260", 30), ("640×360", 5)])
def test_size_and_rate_are_as_chosen(page: Viewer, size: str, rate: int) -> None:
    start_camera(page, size, rate)
    page.wait_for_windows(5)
    width, height = map(int, size.split("×"))
    assert sum(page.get("maskClassCounts").values()) == width * height
    assert f"{width}×{height}" in page.text(".model")


def test_a_paused_view_stands_still_while_the_camera_streams_on(page: Viewer) -> None:
    start_camera(page)
    page.wait_for_windows(10)
    shown = page.pause()
    picture = page.pixels("canvas.input")
    page.wait_for_windows(10)
    assert page.get("shown") == shown
    assert page.pixels("canvas.input") == picture
    assert page.text(".frozen") == "View paused, the camera streams on"
    page.wait(lambda: page.text(".link-text") in ("Live", "Behind"), "the state of the connection")
    page.keys(Keys.HOME)
    page.wait(lambda: page.get("shown")["window"] < shown["window"], "an earlier window")
    assert page.pixels("canvas.input") != picture
    page.keys(Keys.SPACE)
    page.wait(lambda: page.get("shown")["window"] > shown["window"] + 5, "the newest window")


def test_a_camera_and_a_recording_run_side_by_side(page: Viewer) -> None:
    start_camera(page)
    page.wait_for_windows(3)
    page.press("#add")
    page.wait_for_windows(2, session=2)  # the same camera once more
    page.press("#demo")
    page.wait(lambda: page.get("sessions")[1]["kind"] == "recording", "the recording")
    page.wait_for_windows(5, session=2)
    page.wait_for_windows(5, session=1)


def test_frames_that_a_slow_server_has_no_credit_for_are_dropped_and_counted(page: Viewer) -> None:
    got = page.run("""
        const { CameraFeed } = await import('/viewer/camera_feed.js');
        const sent = [];
        const connection = {
          credit: 16,
          get unanswered() { return sent.length - this.answered; },
          answered: 0,
          send(encode) { sent.push(new DataView(encode(sent.length + 1))); },
        };
        let taken = 0;
        const picture = { width: 4, height: 2, grey: new Uint8Array(8) };
        const camera = { fresh: true, label: 'x', take() { taken++; return picture; } };
        const feed = new CameraFeed(camera, { deviceId: '', width: 4, height: 2, fps: 10 });
        feed.connect(connection);
        let now = 1000;
        const run = (frames) => { for (let i = 0; i < frames; i++) feed.tick(now += 100); };
        run(10);
        const stalled = [feed.sent, feed.dropped, taken];
        connection.answered = sent.length;
        run(1);
        const on = [feed.sent, feed.dropped];
        connection.credit = 0;
        run(3);
        const none = [feed.sent, feed.dropped];
        connection.credit = 16;
        connection.answered = sent.length;
        now += 5000;
        run(1);
        const kinds = sent.map((view) => view.getUint8(0));
        const times = sent.filter((view) => view.getUint8(0) === 6).map((view) => Number(view.getBigInt64(16, true)));
        return { stalled, on, none, kinds, times, hello: feed.helloFor(50000) };
    """)
    assert got["stalled"] == [2, 8, 2]  # at most two on the way at this rate; the others are not even looked at
    assert got["on"] == [3, 8]
    assert got["none"] == [3, 11]
    assert got["kinds"] == [6, 6, 6, 3, 6]  # after a gap membranes begin at rest
    assert got["times"] == [0, 100_000, 1_000_000, 6_400_000]
    assert got["hello"] == {"frames": {}, "queue": {"policy": "drop-oldest", "windows": 4}}


def test_a_camera_that_goes_away_is_told_of(page: Viewer) -> None:
    page.run("""
        const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => (window.stream = await ask(wanted));
    """)
    start_camera(page)
    page.wait_for_windows(2)
    page.run("window.stream.getVideoTracks()[0].dispatchEvent(new Event('ended'))")
    assert "The camera is gone" in page.wait(page.banner, "the banner")


def test_a_dialog_that_is_closed_starts_no_camera(page: Viewer) -> None:
    page.run("""
        const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        const decided = new Promise((resolve) => (window.decide = resolve));
        navigator.mediaDevices.getUserMedia = async (wanted) => {
          await decided;
          return (window.stream = await ask(wanted));
        };
    """)
    page.press("#camera")
    page.press("#camera-start")
    page.press("#camera-dialog .quiet")
    page.run("window.decide()")
    page.wait(
        lambda: page.run("return window.stream?.getVideoTracks()[0].readyState") == "ended", "the camera to be let go"
    )
    page.wait_for_windows(2)
    assert page.get("sessions")[0]["kind"] == "recording"


def test_whoever_denies_the_camera_is_told_how_to_allow_it(server: str) -> None:
    require_browser()
    with running_chromium(FAKE_CAMERA) as driver:
        page = Viewer(driver, server)
        page.resize(1440, 900)
        driver.execute_cdp_cmd(
            "Browser.setPermission",
            {"permission": {"name": "camera"}, "setting": "denied", "origin": server},
        )
        page.open()
        page.wait_for_windows(1)
        said = said_in_dialog(page)
        assert "Permission was denied" in said
        assert "Allow the camera for this page" in said
        page.wait_for_windows(2)  # the recording goes on
        assert page.get("sessions")[0]["kind"] == "recording"
        assert page.console_errors() == []


def test_without_a_camera_the_page_says_so(chromium: webdriver.Chrome, server: str) -> None:
    page = Viewer(chromium, server)
    page.resize(1440, 900)
    page.open()
    page.wait_for_windows(1)
    assert "There is no camera" in said_in_dialog(page)
    assert "No camera found" in page.text("#camera-device")
    page.press("#camera-dialog .quiet")
    page.wait_for_windows(2)
    assert page.console_errors() == []
    page.leave()


def test_outside_a_secure_context_the_page_says_what_a_camera_needs() -> None:
    require_browser()
    flags = (*FAKE_CAMERA, *ALLOWED, f"--host-resolver-rules=MAP {HOST} 127.0.0.1")
    with running_server(allowed_hosts=HOST) as server, running_chromium(flags) as driver:
        page = Viewer(driver, server.replace("127.0.0.1", HOST))
        page.resize(1440, 900)
        page.open()
        page.wait_for_windows(1)
        said = said_in_dialog(page)
        assert "The camera needs a secure address" in said
        assert f"http://{HOST}" in said
        assert page.element("#camera-start").is_enabled() is False
        # The browser itself writes that it heeds a header in secure contexts only.
        assert all("Cross-Origin-Opener-Policy" in message for message in page.console_errors())
        page.leave()
