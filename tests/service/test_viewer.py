"""The viewer in a real browser: against the running server, and its modules against the Python side's bytes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from models.events import EventBatch, SensorSize
from service.settings import Settings
from service.wire import events as wire_events
from service.wire import messages as wire_messages
from service.wire.events import EventEncoding
from service.wire.messages import MessageType
from tests.vectors.make import PATH

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
SENSOR = SensorSize(346, 260)

SPY_ON_SOCKETS = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
  hellos = [];
  windows = [];
  constructor(url, protocols) {
    // Another port would be another origin, which the page's security policy keeps it from.
    super(window.unreachable ? new URL('/nowhere', location.href) : url, protocols);
    window.sockets.push(this);
    this.addEventListener('message', ({ data }) => {
      if (typeof data === 'string') return;
      const view = new DataView(data);
      if (view.getUint8(0) === 129) this.windows.push(Number(view.getBigUint64(8, true)));
    });
  }
  send(data) {
    if (typeof data === 'string') this.hellos.push(JSON.parse(data));
    super.send(data);
  }
};
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    missing = [path for path in (CHROMIUM, CHROMEDRIVER) if not Path(path).exists()]
    if missing:
        reason = f"no browser: {' and '.join(missing)} missing (apt-get install chromium chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    profile = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    driver.set_script_timeout(30)
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def page(chromium: webdriver.Chrome, server: str) -> Iterator[Viewer]:
    """The viewer, playing; whatever the test does, the console must stay free of errors."""
    viewer = Viewer(chromium, server)
    viewer.resize(1440, 900)
    viewer.open()
    yield viewer
    assert viewer.console_errors() == []
    viewer.leave()


class Viewer:
    """The page as a user, and ``window.spikeseg`` as a test, see it."""

    def __init__(self, driver: webdriver.Chrome, server: str) -> None:
        self.driver = driver
        self.url = server.rstrip("/") + "/"

    def open(self) -> None:
        self.console_errors()
        self.driver.get(self.url)

    def leave(self) -> None:
        self.driver.get("about:blank")

    @contextmanager
    def script_on_load(self, source: str) -> Iterator[None]:
        """Have a script run before those of the page."""
        script = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
        yield
        self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)

    def resize(self, width: int, height: int) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700},
        )

    def get(self, name: str) -> Any:
        return self.driver.execute_script(f"return window.spikeseg?.{name}")

    def element(self, id: str) -> Any:
        return self.driver.find_element(By.ID, id)

    def text(self, id: str) -> str:
        return str(self.element(id).text)

    def banner(self) -> str | None:
        """What the banner says, if it is shown."""
        banner = self.element("banner")
        return banner.text if banner.is_displayed() else None

    def press_in_banner(self, label: str) -> None:
        self.element("banner").find_element(By.XPATH, f".//button[.='{label}']").click()

    def choose_file(self, path: Path) -> None:
        self.element("file").send_keys(str(path))

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                state = [self.get(n) for n in ("state", "windowsAnswered", "lastResult")]
                pytest.fail(f"waited {seconds} s for {what}; state, windows, result: {state}, banner: {self.banner()}")
            time.sleep(0.05)
        return value

    def wait_for_windows(self, more: int) -> None:
        goal = (self.get("windowsAnswered") or 0) + more
        self.wait(lambda: (self.get("windowsAnswered") or 0) >= goal, f"{more} more windows")

    def console_errors(self) -> list[str]:
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]

    def screenshot(self, path: Path) -> None:
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
    rng = np.random.default_rng(seed)
    return EventBatch(
        np.sort(rng.integers(7_000_000, 7_000_000 + duration_us, n)),
        rng.integers(0, SENSOR.width, n).astype(np.uint16),
        rng.integers(0, SENSOR.height, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
    )


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def as_lists(events: EventBatch) -> dict[str, list[int]]:
    return {name: getattr(events, name).tolist() for name in "txyp"}


# The page -------------------------------------------------------------------------------------------------------------


def test_plays_the_demo_at_once_and_shows_classes(page: Viewer, tmp_path: Path) -> None:
    page.wait_for_windows(20)
    assert page.get("state") == "playing"
    assert page.banner() is None
    assert page.text("link-text") == "Live"

    def has_three_classes() -> bool:
        counts: dict[str, int] = page.get("maskClassCounts")
        least = 0.005 * sum(counts.values())
        return sum(pixels >= least for pixels in counts.values()) >= 3

    page.wait(has_three_classes, "a mask with three classes of at least half a percent each", 15)
    page.element("play").click()
    page.wait(lambda: page.get("state") == "paused", "pause")
    time.sleep(0.5)  # what is on its way still arrives

    seen = page.run(
        """
        const canvas = document.getElementById('mask');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const counts = new Map();
        for (const pixel of new Uint32Array(data.buffer)) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
        return { counts: [...counts.values()], width: canvas.width, height: canvas.height };
        """
    )
    result = page.get("lastResult")
    assert [seen["width"], seen["height"]] == [result["mask"]["width"], result["mask"]["height"]]
    assert sorted(seen["counts"]) == sorted(page.get("maskClassCounts").values())

    drawn = page.run(
        """
        const canvas = document.getElementById('events');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((value, i) => i % 4 === 3 && value > 0).length;
        """
    )
    assert 0 < drawn <= result["events"]

    page.element("play").click()
    page.wait_for_windows(25)
    folder = Path(os.environ.get("SPIKESEG_SCREENSHOT_DIR") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(folder / "viewer-1440x900.png")
    page.resize(390, 844)
    page.wait_for_windows(3)
    page.screenshot(folder / "viewer-390x844.png")


def test_needs_nothing_from_elsewhere(page: Viewer) -> None:
    page.wait_for_windows(1)
    loaded = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert [name for name in loaded if not name.startswith((page.url, "data:"))] == []


def test_numbers_legend_and_charts_fill(page: Viewer) -> None:
    page.wait_for_windows(5)
    page.wait(lambda: page.text("n-ms") not in ("", "–"), "the numbers")
    for id in ("n-window", "n-time", "n-events", "n-windows"):
        assert page.text(id) != "–", id
    classes = page.driver.find_elements(By.CSS_SELECTOR, "#classes li")
    assert len(classes) == 6
    assert all("%" in row.text for row in classes)
    for chart in ("firing", "operations", "energy", "latency"):
        readouts = [o.text for o in page.driver.find_elements(By.CSS_SELECTOR, f"#chart-{chart} output")]
        assert readouts, chart
        assert not {"", "–"} & set(readouts), (chart, readouts)
    firing = [layer for layer in page.get("lastResult")["activity"]["layers"] if layer["neurons"]]
    assert len(page.driver.find_elements(By.CSS_SELECTOR, "#chart-firing li")) == len(firing) + 1


def test_a_class_can_be_switched_off(page: Viewer) -> None:
    page.wait_for_windows(3)
    page.element("play").click()
    time.sleep(0.5)
    opaque = """
        const canvas = document.getElementById('mask');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return data.filter((value, i) => i % 4 === 3 && value > 0).length;
    """
    before = page.run(opaque)
    counts = page.get("maskClassCounts")
    largest = max(counts, key=counts.get)
    page.driver.find_elements(By.CSS_SELECTOR, "#classes input")[int(largest)].click()
    assert page.run(opaque) == before - counts[largest]


def test_restart_and_loop_begin_from_window_0(page: Viewer) -> None:
    page.wait_for_windows(12)
    page.wait(lambda: page.get("lastResult")["window"] >= 10, "window 10")
    page.element("restart").click()
    page.wait(lambda: page.get("lastResult")["window"] < 5, "the windows to begin again")
    first = page.get("lastResult")["t_start"]

    page.run(
        """
        const slider = document.getElementById('position');
        slider.value = 0.93 * slider.max;
        slider.dispatchEvent(new Event('input'));
        slider.dispatchEvent(new Event('change'));
        """
    )
    page.wait(lambda: page.get("lastResult")["t_start"] > first + 500_000, "playback near the end")
    total = page.get("windowsAnswered")
    page.wait(lambda: page.get("lastResult")["t_start"] <= first + 200_000, "the loop")
    assert page.get("lastResult")["window"] < 10
    assert page.get("windowsAnswered") > total

    # Also before the server has welcomed a new session.
    page.run("""
        document.getElementById('window').dispatchEvent(new Event('change'));
        document.getElementById('restart').click();
    """)
    page.wait_for_windows(5)
    assert page.get("state") == "playing"
    assert page.banner() is None


def test_pause_speed_and_view_by_keyboard(page: Viewer) -> None:
    page.wait_for_windows(3)
    body = page.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.SPACE)
    assert page.get("state") == "paused"
    time.sleep(1)
    answered = page.get("windowsAnswered")
    time.sleep(0.5)
    assert page.get("windowsAnswered") == answered
    body.send_keys(Keys.SPACE)
    page.wait_for_windows(2)

    body.send_keys("v")
    events, mask = page.element("events").rect, page.element("mask").rect
    assert events["x"] + events["width"] <= mask["x"]
    body.send_keys("v")
    assert page.element("events").rect == page.element("mask").rect

    Select(page.element("speed")).select_by_value("0.25")
    page.wait(lambda: page.text("rate").startswith(("0.2×", "0.3×")), "quarter speed")


def test_window_length_starts_a_session_of_its_own(page: Viewer) -> None:
    page.wait_for_windows(3)
    Select(page.element("window")).select_by_value("20000")
    page.wait(lambda: (r := page.get("lastResult"))["t_end"] - r["t_start"] == 20_000, "windows of 20 ms")
    page.wait_for_windows(3)
    assert page.banner() is None


def test_corrupt_file_is_refused_politely_and_the_demo_plays_on(page: Viewer, tmp_path: Path) -> None:
    page.wait_for_windows(3)
    broken = tmp_path / "broken.aedat4"
    broken.write_bytes(b"#!AER-DAT4.0\r\n" + bytes(range(200)))
    page.choose_file(broken)
    said = page.wait(page.banner, "the banner")
    assert "broken.aedat4 could not be read" in said
    assert "Choose another file" in said
    page.wait_for_windows(5)
    page.press_in_banner("Dismiss")
    assert page.banner() is None

    packets = tmp_path / "cut.sev"
    packets.write_bytes(wire_events.encode_packet(recording(), SENSOR)[:-3])
    page.choose_file(packets)
    assert "cut off" in page.wait(page.banner, "the banner")
    # The browser itself writes a line for the answer 422.
    assert all("/v1/recordings" in message and "422" in message for message in page.console_errors())


def test_a_file_of_packets_is_played_as_it_is(page: Viewer, tmp_path: Path) -> None:
    page.wait_for_windows(1)
    events = recording()
    path = tmp_path / "mine.sev"
    path.write_bytes(b"".join(wire_events.encode_packets(events, SENSOR)))
    page.choose_file(path)
    page.wait(lambda: page.text("source").startswith("mine.sev"), "the recording's name")
    page.wait(lambda: 7_000_000 <= page.get("lastResult")["t_start"] < 8_600_000, "windows of the recording")
    page.element("play").click()
    time.sleep(0.5)
    result = page.get("lastResult")
    inside = (events.t >= result["t_start"]) & (events.t < result["t_end"])
    assert result["events"] == int(inside.sum())


def test_a_dropped_file_is_played(page: Viewer) -> None:
    page.wait_for_windows(1)
    page.run(
        """
        const files = new DataTransfer();
        files.items.add(new File([bytes(a[0])], 'dropped.sev'));
        const hint = () => !document.getElementById('drop-hint').hidden;
        const drag = (kind) => document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true }));
        drag('dragenter');
        if (!hint()) throw new Error('no hint');
        drag('drop');
        if (hint()) throw new Error('the hint stays');
        """,
        b64(b"".join(wire_events.encode_packets(recording(), SENSOR))),
    )
    page.wait(lambda: page.text("source").startswith("dropped.sev"), "the recording's name")
    page.wait_for_windows(3)


def test_an_aedat4_file_is_played(page: Viewer) -> None:
    page.wait_for_windows(1)
    page.choose_file(Settings().demo_recording)
    page.wait(lambda: page.text("source").startswith(Settings().demo_recording.name), "the recording's name")
    page.wait_for_windows(5)
    assert page.banner() is None


def test_a_dropped_connection_is_taken_up_again_without_a_gap(chromium: webdriver.Chrome, server: str) -> None:
    page = Viewer(chromium, server)
    with page.script_on_load(SPY_ON_SOCKETS):
        page.open()
        page.wait_for_windows(6)
        for _ in range(3):
            chromium.execute_script("window.sockets.at(-1).close()")
            page.wait_for_windows(6)
        sockets = chromium.execute_script("return sockets.map(({ hellos, windows }) => ({ hellos, windows }))")
    page.leave()
    assert len(sockets) == 4
    assert "resume" not in sockets[0]["hellos"][0]
    assert all(set(s["hellos"][0]) == {"type", "version", "resume"} for s in sockets[1:])
    windows = [window for socket in sockets for window in socket["windows"]]
    assert sorted(set(windows)) == list(range(max(windows) + 1))


def test_an_unreachable_server_is_asked_again(chromium: webdriver.Chrome, server: str) -> None:
    page = Viewer(chromium, server)
    with page.script_on_load(SPY_ON_SOCKETS):
        page.open()
        page.wait_for_windows(4)
        chromium.execute_script("window.unreachable = true; window.sockets.at(-1).close()")
        page.wait(lambda: page.get("state") == "reconnecting", "the state")
        assert "The server cannot be reached" in page.wait(page.banner, "the banner")
        chromium.execute_script("window.unreachable = false")
        page.press_in_banner("Try now")
        page.wait(lambda: page.get("state") == "playing", "the stream to go on")
        page.wait_for_windows(4)
        assert page.banner() is None
    page.leave()


def test_without_a_demo_the_page_says_what_to_do(chromium: webdriver.Chrome, strict_server: str) -> None:
    page = Viewer(chromium, strict_server)
    page.open()
    said = page.wait(page.banner, "the banner")
    assert "The demo recording could not be loaded" in said
    assert "this server has no demo recording" in said
    assert "Open a file" in said
    assert page.get("state") == "empty"
    assert "drop one here" in page.text("message")
    page.leave()


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1280, 1600])
def test_fits_every_width(page: Viewer, width: int) -> None:
    page.resize(width, 844)
    page.wait_for_windows(2)
    for view in ("side", "blended"):
        page.driver.execute_script(f"document.querySelector('input[name=view][value={view}]').click()")
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.element("mask").rect["width"] >= 150


def test_every_control_has_a_name(page: Viewer) -> None:
    page.wait_for_windows(2)
    controls = page.driver.find_elements(By.CSS_SELECTOR, "button, select, input, a, canvas")
    named = [control for control in controls if control.is_displayed()]
    assert len(named) > 20
    assert [c.get_attribute("outerHTML") for c in named if not c.accessible_name] == []


def test_spikeseg_is_read_only(page: Viewer) -> None:
    page.wait_for_windows(1)
    page.driver.execute_script("try { spikeseg.state = 'x' } catch {} spikeseg.lastResult.window = -5")
    assert page.get("state") != "x"
    assert page.get("lastResult")["window"] >= 0


# protocol.js ----------------------------------------------------------------------------------------------------------

IMPORT_PROTOCOL = "const protocol = await import('/viewer/protocol.js');"


@pytest.fixture
def modules(chromium: webdriver.Chrome, server: str) -> Viewer:
    """A page of the server's origin in which nothing runs, to import modules into."""
    viewer = Viewer(chromium, server)
    chromium.get(viewer.url + "viewer/favicon.svg")
    return viewer


@pytest.mark.parametrize("encoding", list(EventEncoding))
def test_reads_the_packets_that_python_writes(modules: Viewer, encoding: EventEncoding) -> None:
    events = recording(3000)
    cuts = [0, 1, 1000, 1000, 3000]  # one packet of one event, one of none
    packets = b"".join(
        wire_events.encode_packet(events[a:b], SENSOR, seq=k, encoding=encoding, time_base=int(events.t[0]))
        for k, (a, b) in enumerate(pairwise(cuts))
    )
    got = modules.run(
        IMPORT_PROTOCOL
        + """
        const { width, height, t, x, y, p } = protocol.parseRecording(bytes(a[0]));
        return { width, height, t: [...t], x: [...x], y: [...y], p: [...p] };
        """,
        b64(packets),
    )
    assert got == {"width": SENSOR.width, "height": SENSOR.height, **as_lists(events)}


def test_writes_the_messages_that_python_reads(modules: Viewer) -> None:
    events = recording(2000)
    far = EventBatch(events.t + 2**45, events.x, events.y, events.p)
    packet = wire_events.encode_packet(far, SENSOR, encoding=EventEncoding.WIDE)
    written = modules.run(
        IMPORT_PROTOCOL
        + """
        const recording = protocol.parseRecording(bytes(a[0]));
        return [
          protocol.encodeEvents(41, recording, 500, 1500),
          protocol.encodeAdvance(42, 2 ** 45 + 7050000),
          protocol.encodeReset(43),
          protocol.encodeEnd(2 ** 40),
        ].map(text);
        """,
        b64(packet),
    )
    sent, advance, reset, end = (wire_messages.decode_message(base64.b64decode(text)) for text in written)
    assert (sent.type, sent.sequence) == (MessageType.EVENTS, 41)
    decoded = wire_events.decode_packet(sent.payload)
    assert decoded.sensor == SENSOR
    assert as_lists(decoded.events) == as_lists(far[500:1500])
    assert (advance.type, advance.sequence) == (MessageType.ADVANCE, 42)
    assert wire_messages.decode_advance(advance.payload) == 2**45 + 7_050_000
    assert (reset.type, reset.sequence, len(reset.payload)) == (MessageType.RESET, 43, 0)
    assert (end.type, end.sequence, len(end.payload)) == (MessageType.END, 2**40, 0)


def test_keeps_to_the_test_vectors_of_the_protocol(modules: Viewer) -> None:
    vectors = {each["name"]: each for each in json.loads(PATH.read_text())}
    data = {name: b64(bytes.fromhex(each["hex"])) for name, each in vectors.items() if "hex" in each}
    got = modules.run(
        IMPORT_PROTOCOL
        + """
        const read = (name) => bytes(a[0][name]);
        const { t, x, y, p } = protocol.parseRecording(read('event packet, 13-byte records'));
        const result = protocol.parseMessage(read('RESULT'));
        const zlib = { encoding: 'zlib', width: 3, height: 2 };
        return {
          events: { t: [...t], x: [...x], y: [...y], p: [...p] },
          result: { window: result.window, metadata: result.meta, mask: [...result.mask] },
          mask: [...(await protocol.decodeMask(new Uint8Array(read('mask, zlib')), zlib))],
          ack: protocol.parseMessage(read('ACK')),
          goaway: protocol.parseMessage(read('GOAWAY')),
          written: [protocol.encodeAdvance(2, 1050000), protocol.encodeReset(3), protocol.encodeEnd(4)].map(text),
        };
        """,
        data,
    )
    mask = [id for row in vectors["RESULT"]["holds"]["mask"] for id in row]
    assert got["events"] == vectors["event packet, 13-byte records"]["holds"]["events"]
    assert got["result"] == {"window": 3, "metadata": vectors["RESULT"]["holds"]["metadata"], "mask": mask}
    assert got["mask"] == mask
    assert (got["ack"]["answered"], got["ack"]["acked"]) == (6, 5)
    assert got["goaway"]["kind"] == MessageType.GOAWAY
    assert got["written"] == [data[name] for name in ("ADVANCE", "RESET", "END")]


@pytest.mark.parametrize("encoding", ["zlib", "raw"])
def test_reads_the_answers_that_python_writes(modules: Viewer, encoding: str) -> None:
    mask = np.random.default_rng(1).integers(0, 6, (26, 34)).astype(np.uint8).tobytes()
    data = zlib.compress(mask, 1) if encoding == "zlib" else mask
    metadata = {"window": 7, "µ": "ß", "mask": {"encoding": encoding, "width": 34, "height": 26, "bytes": len(data)}}
    got = modules.run(
        IMPORT_PROTOCOL
        + """
        const result = protocol.parseMessage(bytes(a[0]));
        const ids = await protocol.decodeMask(result.mask, result.meta.mask);
        return { window: result.window, meta: result.meta, ids: text(ids), ack: protocol.parseMessage(bytes(a[1])) };
        """,
        b64(wire_messages.encode_result(7, metadata, data)),
        b64(wire_messages.encode_ack(99, 98, 16)),
    )
    ack = {"kind": 130, "answered": 99, "acked": 98}
    assert got == {"window": 7, "meta": metadata, "ids": b64(mask), "ack": ack}


def broken(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes([value]) + packet[at + 1 :]


def test_refuses_what_is_not_a_recording(modules: Viewer) -> None:
    packet = wire_events.encode_packet(recording(3), SENSOR)
    back = wire_events.encode_packet(recording(3), SENSOR, encoding=EventEncoding.WIDE)
    cases = {
        "cut off": packet[:-1],
        "is cut off": packet[:20],
        "no event packet": packet + bytes(40),
        "unknown encoding 9": broken(packet, 4, 9),
        "outside the 346×260": broken(packet, 37, 0x7F),
        "Time goes back at event 1": back[:32] + back[45:58] + back[32:45] + back[58:],
        "polarity 7": broken(back, 44, 7),
        "no events": wire_events.encode_packet(EventBatch.empty(), SENSOR),
        "another for 346×260": packet + wire_events.encode_packet(EventBatch.empty(), SensorSize(10, 10)),
    }
    for reason, data in cases.items():
        said = modules.run(
            IMPORT_PROTOCOL
            + """
            try {
              protocol.parseRecording(bytes(a[0]));
              return null;
            } catch (error) {
              return `${error.name}: ${error.message}`;
            }
            """,
            b64(data),
        )
        assert (said or "").startswith("FormatError"), (reason, said)
        assert reason in said


# format.js ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("si(4_560_000)", "4.56 M"),
        ("si(999_999)", "1.00 M"),
        ("si(1.9e-3, 'J')", "1.90 mJ"),
        ("si(0, 'J')", "0 J"),
        ("si(NaN)", "–"),
        ("percent(0.4333)", "43.3 %"),
        ("percent(0.0065)", "0.65 %"),
        ("milliseconds(7.24)", "7.2 ms"),
        ("milliseconds(1200)", "1.2 s"),
        ("count(1234567)", "1 234 567"),
        ("ratio(37.8)", "38×"),
        ("ratio(1.44)", "1.4×"),
        ("clock(63_935_000)", "1:03.93"),
    ],
)
def test_numbers_as_text(modules: Viewer, call: str, text: str) -> None:
    shown = modules.run(f"const format = await import('/viewer/format.js'); return format.{call}")
    assert shown.replace("\u202f", " ") == text


# connection.js --------------------------------------------------------------------------------------------------------

FAKE_SERVER = """
const { StreamConnection, Link } = await import('/viewer/connection.js');
const sockets = [];
class FakeSocket {
  sent = [];
  constructor() {
    sockets.push(this);
    queueMicrotask(() => this.onopen?.());
  }
  send(data) {
    this.sent.push(typeof data === 'string' ? JSON.parse(data) : Number(new DataView(data).getBigUint64(8, true)));
  }
  close() {}
  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
  welcome(next) {
    this.say({ type: 'welcome', resume: 'TOKEN', next_sequence: next, next_window: 0 });
  }
  binary(kind, sequence, payload) {
    const view = new DataView(new ArrayBuffer(16 + payload.length));
    view.setUint8(0, kind);
    view.setUint32(4, payload.length, true);
    view.setBigUint64(8, BigInt(sequence), true);
    new Uint8Array(view.buffer, 16).set(payload);
    this.onmessage({ data: view.buffer });
  }
  ack(sequence) {
    this.binary(130, sequence, new TextEncoder().encode(JSON.stringify({ acked: sequence })));
  }
  result(window) {
    this.binary(129, window, Uint8Array.of(2, 0, 0, 0, 0x7b, 0x7d));
  }
}
const log = [];
const connection = new StreamConnection('ws://x', { model: 'm' }, {
  onState: (state) => log.push(state),
  onWelcome: (welcome, resumed) => log.push(resumed ? 'resumed' : 'welcome'),
  onResult: ({ window }) => log.push(window),
  onAck: () => {},
  onEnd: ({ code, lost }) => log.push(`end ${code} ${lost}`),
}, { WebSocket: FakeSocket });
const message = (sequence) => {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(8, BigInt(sequence), true);
  return view.buffer;
};
const until = async (condition) => {
  for (let i = 0; i < 400 && !condition(); i++) await new Promise((resolve) => setTimeout(resolve, 5));
  if (!condition()) throw new Error(`waited in vain: ${condition}`);
};
connection.open();
await until(() => sockets[0].sent.length);
"""


def test_resume_sends_again_what_was_not_acknowledged(modules: Viewer) -> None:
    got = modules.run(
        FAKE_SERVER
        + """
        sockets[0].welcome(1);
        for (let i = 0; i < 4; i++) connection.send(message);
        sockets[0].ack(1);
        sockets[0].result(0);
        sockets[0].onclose({ code: 1006 });
        connection.send(message);
        await until(() => sockets[1]?.sent.length);
        sockets[1].welcome(3);
        sockets[1].result(0);
        sockets[1].result(1);
        sockets[1].ack(2);
        sockets[1].ack(5);
        sockets[1].onclose({ code: 1012 });
        await until(() => sockets[2]?.sent.length);
        sockets[2].welcome(6);
        connection.send(message);
        const { state } = connection;
        connection.close();
        return { state, log, sent: sockets.map((socket) => socket.sent) };
        """
    )
    hello = {"type": "hello", "version": 1}
    assert got["sent"] == [
        [{**hello, "model": "m"}, 1, 2, 3, 4],
        [{**hello, "resume": "TOKEN"}, 2, 3, 4, 5],
        [{**hello, "resume": "TOKEN"}, 6, 7],
    ]
    assert got["state"] == "live"
    assert [entry for entry in got["log"] if isinstance(entry, int)] == [0, 1]  # the repeated answer is not shown twice


@pytest.mark.parametrize(
    ("after", "end"),
    [
        (
            "sockets[1].say({ type: 'error', code: 4404, title: 'gone' }); sockets[1].onclose({ code: 4404 });",
            "end 4404 true",
        ),
        ("sockets[1].welcome(1);", "end 4404 true"),
        ("sockets[1].welcome(3); sockets[1].onclose({ code: 4422 });", "end 4422 false"),
        ("sockets[1].welcome(3); sockets[1].onclose({ code: 1000 });", "end 1000 false"),
        ("sockets[1].welcome(3); sockets[1].binary(77, 0, []);", "end 4422 false"),
    ],
    ids=["forgotten", "older snapshot", "unusable", "ended", "nonsense"],
)
def test_sessions_that_cannot_go_on_are_reported_once(modules: Viewer, after: str, end: str) -> None:
    log = modules.run(
        FAKE_SERVER
        + """
        sockets[0].welcome(1);
        connection.send(message);
        connection.send(message);
        sockets[0].ack(2);
        sockets[0].onclose({ code: 1006 });
        await until(() => sockets[1]?.sent.length);
        """
        + after
        + "await new Promise((resolve) => setTimeout(resolve, 600)); return { log, sockets: sockets.length };"
    )
    assert log["log"][-2:] == ["closed", end]
    assert log["sockets"] == 2


def test_a_full_server_is_asked_again_and_nobody_waits_for_a_paused_page(modules: Viewer) -> None:
    got = modules.run(
        FAKE_SERVER
        + """
        sockets[0].say({ type: 'error', code: 4429, title: 'full' });
        sockets[0].onclose({ code: 4429 });
        const waiting = connection.state;
        await until(() => sockets[1]?.sent.length);
        connection.eager = false;
        sockets[1].onclose({ code: 1006 });
        const dormant = connection.state;
        await new Promise((resolve) => setTimeout(resolve, 900));
        const before = sockets.length;
        connection.eager = true;
        return { waiting, dormant, before, after: sockets.length, hello: sockets[1].sent[0] };
        """
    )
    assert (got["waiting"], got["dormant"], got["before"], got["after"]) == ("waiting", "dormant", 2, 3)
    assert got["hello"] == {"type": "hello", "version": 1, "model": "m"}


# player.js ------------------------------------------------------------------------------------------------------------

PLAYER = """
const { Player } = await import('/viewer/player.js');
const { parseRecording } = await import('/viewer/protocol.js');
const recording = parseRecording(bytes(a[0]));
const out = [];
const player = new Player(recording, a[1], {
  events: (from, to) => out.push(['events', from, to]),
  advance: (time) => out.push(['advance', time]),
  reset: () => out.push(['reset']),
});
player.begin(player.start);
player.play();
let now = 0;
player.tick(now);
"""


@pytest.mark.parametrize("window_us", [10_000, 33_333, 50_000])
def test_a_loop_sends_every_event_once_in_small_chunks(modules: Viewer, window_us: int) -> None:
    events = recording(4000, 400_000)
    out = modules.run(
        PLAYER
        + """
        while (!out.some(([kind]) => kind === 'reset')) {
          player.tick(now += 7);
          player.onAck(out.length);
        }
        return out;
        """,
        b64(wire_events.encode_packet(events, SENSOR)),
        window_us,
    )
    chunks = [entry[1:] for entry in out if entry[0] == "events"]
    assert [a for a, _ in chunks] == [0, *(b for _, b in chunks[:-1])]
    assert chunks[-1][1] == len(events)
    assert all(events.t[b - 1] - events.t[a] < 10_000 for a, b in chunks)
    advances = [entry[1] for entry in out if entry[0] == "advance"]
    first, last = int(events.t[0]) // window_us, int(events.t[-1]) // window_us
    assert advances == [(k + 1) * window_us for k in range(first, last + 1)]
    received = 0
    for kind, *rest in out[:-1]:
        if kind == "events":
            received = rest[1]
        else:  # ADVANCE tells the truth, and closes a window before anything of the next is sent
            assert received == int(np.searchsorted(events.t, rest[0]))
    assert out[-1] == ["reset"]


def test_playback_waits_for_a_server_that_does_not_answer(modules: Viewer) -> None:
    got = modules.run(
        PLAYER
        + """
        for (let i = 0; i < 400; i++) player.tick(now += 10);
        const stalled = out.filter(([kind]) => kind === 'advance').length;
        const { slow } = player;
        player.onAck(out.length);
        for (let i = 0; i < 400; i++) player.tick(now += 10);
        return { stalled, slow, after: out.filter(([kind]) => kind === 'advance').length };
        """,
        b64(wire_events.encode_packet(recording(), SENSOR)),
        50_000,
    )
    assert got == {"stalled": 3, "slow": True, "after": 6}


def test_short_loops_do_not_run_ahead_either(modules: Viewer) -> None:
    out = modules.run(
        PLAYER + "for (let i = 0; i < 400; i++) player.tick(now += 10); return out;",
        b64(wire_events.encode_packet(recording(100, 40_000), SENSOR)),
        50_000,
    )
    assert sum(entry[0] == "advance" for entry in out) == 3
