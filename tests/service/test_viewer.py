"""The viewer in a real browser, against the running server: one session, recordings, and the page itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from service.settings import Settings
from service.wire import events as wire_events
from tests.service.browser import VIEWER_SENSOR as SENSOR
from tests.service.browser import Viewer, b64, recording

RUNNING = ("playing", "behind")
"""A busy machine may be behind."""

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


# Texts whose contrast with what lies behind them is below 4.5, by WCAG 2.2.
CONTRAST = """
const parse = (color) => {
  const [r, g, b, alpha = 1] = color.match(/[\\d.]+/g).map(Number);
  return { rgb: [r, g, b], alpha };
};
const luminance = (rgb) => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb.map((value) => linear(value / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const { rgb, alpha } = parse(getComputedStyle(each).backgroundColor);
    if (alpha > 0.8) return rgb;
  }
  return [255, 255, 255];
};
const faint = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility() || element.closest('template, option, svg, :disabled')) continue;
  const [a, b] = [luminance(parse(getComputedStyle(element).color).rgb), luminance(behind(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) faint.push(`${contrast.toFixed(1)} ${element.outerHTML.slice(0, 80)}`);
}
return faint;
"""


@pytest.fixture
def page(chromium: webdriver.Chrome, server: str) -> Iterator[Viewer]:
    """The viewer, playing; whatever the test does, the console must stay free of errors."""
    viewer = Viewer(chromium, server)
    viewer.resize(1440, 900)
    viewer.open()
    yield viewer
    assert viewer.console_errors() == []
    viewer.leave()


def test_plays_the_demo_at_once_and_shows_classes(page: Viewer) -> None:
    page.wait_for_windows(20)
    assert page.get("state") in RUNNING
    assert page.banner() is None
    page.wait(lambda: page.text(".link-text") in ("Live", "Behind"), "the state of the connection")

    def has_three_classes() -> bool:
        counts: dict[str, int] = page.get("maskClassCounts")
        least = 0.005 * sum(counts.values())
        return sum(pixels >= least for pixels in counts.values()) >= 3

    page.wait(has_three_classes, "a mask with three classes of at least half a percent each")
    page.pause()
    seen = page.run(
        """
        const canvas = document.querySelector('canvas.mask');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const counts = new Map();
        for (const pixel of new Uint32Array(data.buffer)) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
        return { counts: [...counts.values()], width: canvas.width, height: canvas.height };
        """
    )
    result = page.get("shown")
    assert [seen["width"], seen["height"]] == [result["mask"]["width"], result["mask"]["height"]]
    assert sorted(seen["counts"]) == sorted(page.get("maskClassCounts").values())
    assert 0 < page.pixels("canvas.input")[3] <= result["events"]


def test_needs_nothing_from_elsewhere(page: Viewer) -> None:
    page.wait_for_windows(1)
    loaded = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert [name for name in loaded if not name.startswith((page.url, "data:"))] == []


def test_numbers_legend_and_charts_fill(page: Viewer) -> None:
    page.wait_for_windows(5)
    page.wait(lambda: page.text("#n-ms") not in ("", "–"), "the numbers")
    for id in ("n-window", "n-time", "n-events", "n-windows"):
        assert page.text(f"#{id}") != "–", id
    classes = page.driver.find_elements(By.CSS_SELECTOR, "#classes li")
    assert len(classes) == 6
    assert all("%" in row.text for row in classes)
    for chart in ("operations", "energy", "latency"):
        readouts = [o.text for o in page.driver.find_elements(By.CSS_SELECTOR, f"#chart-{chart} output")]
        assert readouts, chart
        assert not {"", "–"} & set(readouts), (chart, readouts)


def test_hiding_a_class_takes_its_pixels_out_of_the_picture(page: Viewer) -> None:
    page.wait_for_windows(3)
    page.pause()
    before = page.pixels("canvas.mask")
    counts = page.get("maskClassCounts")
    largest = max(counts, key=counts.get)
    share = f"{100 * counts[largest] / sum(counts.values()):.1f}\u202f%"
    page.wait(lambda: page.elements("#classes output")[int(largest)].text == share, "its share of the picture")
    box = page.elements("#classes input")[int(largest)]
    box.click()
    assert page.pixels("canvas.mask")[3] == before[3] - counts[largest]
    page.press("#show-classes [data-show=none]")
    assert page.pixels("canvas.mask")[3] == 0
    page.press("#show-classes [data-show=all]")
    assert page.pixels("canvas.mask") == before


def test_events_can_be_switched_off_and_the_mask_made_translucent(page: Viewer) -> None:
    page.wait_for_windows(3)
    style = "return getComputedStyle(document.querySelector('canvas.{}')).{}"
    assert page.run(style.format("input", "visibility")) == "visible"
    page.press("#input-shown")
    assert page.run(style.format("input", "visibility")) == "hidden"
    page.keys("e")
    assert page.run(style.format("input", "visibility")) == "visible"
    page.slide("#opacity", 0.3)
    assert page.run(style.format("mask", "opacity")) == "0.3"


def test_restart_and_loop_begin_from_window_0(page: Viewer) -> None:
    page.wait_for_windows(12)
    page.wait(lambda: page.last("window") >= 10, "window 10")
    page.press(".playback .restart")
    page.wait(lambda: page.last("window") < 5, "the windows to begin again")
    first = page.last("t_start")

    page.slide(".position", 930)
    page.wait(lambda: page.last("t_start") > first + 500_000, "playback near the end")
    total = page.get("windowsAnswered")
    page.wait(lambda: page.last("t_start") <= first + 200_000, "the loop")
    assert page.last("window") < 10
    assert page.get("windowsAnswered") > total

    # Also before the server has welcomed a new session.
    page.run("""
        document.getElementById('window').dispatchEvent(new Event('change'));
        document.querySelector('.restart').click();
    """)
    page.wait_for_windows(5)
    assert page.get("state") in RUNNING
    assert page.banner() is None


def test_pause_speed_and_view_by_keyboard(page: Viewer) -> None:
    page.wait_for_windows(3)
    page.keys(Keys.SPACE)
    assert page.get("state") == "paused"
    page.wait(lambda: page.get("sessions")[0]["unanswered"] == 0, "what is on its way")
    answered = page.get("windowsAnswered")
    time.sleep(0.5)
    assert page.get("windowsAnswered") == answered
    page.keys(Keys.SPACE)
    page.wait_for_windows(2)

    page.keys("v")
    events, mask = page.element("canvas.input").rect, page.element("canvas.mask").rect
    assert events["x"] + events["width"] <= mask["x"]
    page.keys("v")
    assert page.element("canvas.input").rect == page.element("canvas.mask").rect

    Select(page.element(".speed select")).select_by_value("0.25")
    page.wait(lambda: page.text(".rate").startswith(("0.1×", "0.2×", "0.3×")), "a quarter of the speed, or less")


def test_window_length_starts_a_session_of_its_own(page: Viewer) -> None:
    page.wait_for_windows(3)
    Select(page.element("#window")).select_by_value("20000")
    page.wait(lambda: page.last("t_end") - page.last("t_start") == 20_000, "windows of 20 ms")
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
    page.wait(lambda: page.text(".source").startswith("mine.sev"), "the recording's name")
    page.wait(lambda: 7_000_000 <= page.last("t_start") < 8_600_000, "windows of the recording")
    result = page.pause()
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
    page.wait(lambda: page.text(".source").startswith("dropped.sev"), "the recording's name")
    page.wait_for_windows(3)


def test_an_aedat4_file_is_played(page: Viewer) -> None:
    page.wait_for_windows(1)
    page.choose_file(Settings().demo_recording)
    page.wait(lambda: page.text(".source").startswith(Settings().demo_recording.name), "the recording's name")
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
        page.wait(lambda: page.get("state") in RUNNING, "the stream to go on")
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
    assert "drop a recording here" in page.text(".message")
    page.leave()


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1280, 1600])
def test_fits_every_width(page: Viewer, width: int) -> None:
    page.resize(width, 844)
    page.wait_for_windows(2)
    for view in ("side", "blended"):
        page.driver.execute_script(f"document.querySelector('input[name=view][value={view}]').click()")
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.element("canvas.mask").rect["width"] >= 150


def test_a_finger_hits_every_control_of_a_phone(page: Viewer) -> None:
    page.resize(360, 780)
    page.wait_for_windows(2)
    page.press("#add")
    page.wait_for_windows(1, session=2)
    page.press(page.stage(1) + " .play")
    assert page.run("return document.documentElement.scrollWidth") <= 360
    small = page.run("""
        return [...document.querySelectorAll('button, select, input, a')]
          .filter((control) => control.checkVisibility())
          .map((control) => control.closest('label, .switch label') ?? control)
          .filter((target) => target.getBoundingClientRect().height < 44)
          .map((target) => target.outerHTML);
    """)
    assert small == []


def test_every_control_has_a_name(page: Viewer) -> None:
    page.wait_for_windows(2)
    page.press("#add")
    page.wait_for_windows(1, session=2)
    named = [control for control in page.elements("button, select, input, a, canvas") if control.is_displayed()]
    assert len(named) > 30
    assert [c.get_attribute("outerHTML") for c in named if not c.accessible_name] == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_stands_out_in_both_schemes(page: Viewer, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    page.wait_for_windows(3)
    faint = page.run(CONTRAST)
    page.prefer()
    assert faint == []


def test_nothing_moves_by_itself_for_those_who_want_it_so(chromium: webdriver.Chrome, server: str) -> None:
    page = Viewer(chromium, server)
    page.prefer(prefers_reduced_motion="reduce")
    page.open()
    page.wait(lambda: page.get("state") == "paused", "the first picture")
    page.wait(lambda: page.pixels("canvas.input")[3] > 0, "the events at the beginning")
    assert page.get("windowsAnswered") == 0
    page.press(".play")
    page.wait_for_windows(3)
    page.prefer()
    assert page.console_errors() == []
    page.leave()


def test_spikeseg_is_read_only(page: Viewer) -> None:
    page.wait_for_windows(1)
    page.driver.execute_script("try { spikeseg.state = 'x' } catch {} spikeseg.lastResult.window = -5")
    assert page.get("state") != "x"
    assert page.last("window") >= 0
