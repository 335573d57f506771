"""Pausing, going back through what is kept, and reading single windows, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.service.browser import Viewer


@pytest.fixture
def page(chromium: webdriver.Chrome, server: str) -> Iterator[Viewer]:
    """The viewer, paused after two dozen windows or more of the demo recording, and nothing on its way."""
    viewer = Viewer(chromium, server)
    viewer.resize(1440, 900)
    viewer.open()
    viewer.wait_for_windows(25)
    viewer.pause()
    viewer.wait(lambda: viewer.get("sessions")[0]["unanswered"] == 0, "what is on its way")
    yield viewer
    assert viewer.console_errors() == []
    viewer.leave()


def shows(page: Viewer, window: int) -> bool:
    return bool(page.get("shown")["window"] == window)


def test_scrubbing_shows_an_earlier_window_with_its_own_mask_and_events(page: Viewer) -> None:
    seen = {}
    for window in (3, 20):
        page.slide(".history", window)
        page.wait(lambda window=window: shows(page, window), f"window {window}")
        seen[window] = (page.pixels("canvas.mask"), page.pixels("canvas.input"), page.get("maskClassCounts"))
        assert f"Window {window} ·" in page.text(".shown-at")
        assert "back" in page.text(".shown-at")
        page.wait(lambda window=window: page.text("#n-window") == str(window), "the numbers of that window")
    assert seen[3][0] != seen[20][0]
    assert seen[3][1] != seen[20][1]
    page.slide(".history", 3)
    page.wait(lambda: shows(page, 3), "window 3 again")
    again = (page.pixels("canvas.mask"), page.pixels("canvas.input"), page.get("maskClassCounts"))
    assert again == seen[3]


def test_arrows_step_from_window_to_window_and_live_goes_on(page: Viewer) -> None:
    newest = page.last("window")
    page.keys(Keys.HOME)
    page.wait(lambda: shows(page, 0), "the oldest window")
    page.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.wait(lambda: shows(page, 2), "two windows on")
    page.keys(Keys.ARROW_LEFT)
    page.wait(lambda: shows(page, 1), "one window back")
    page.keys(Keys.SHIFT + Keys.ARROW_RIGHT)
    page.wait(lambda: shows(page, 11), "ten windows on")
    page.keys(Keys.END)
    page.wait(lambda: shows(page, newest), "the newest window")
    assert page.get("state") == "paused"
    page.keys(Keys.HOME, "l")
    page.wait_for_windows(2)
    page.wait(lambda: page.get("shown")["window"] > newest, "the view to follow the newest window")
    assert page.element(".live").is_enabled() is False


def test_a_slider_that_is_moved_halts_the_playback(page: Viewer) -> None:
    page.press(".live")
    page.wait_for_windows(1)
    page.slide(".history", 0)
    page.wait(lambda: page.get("state") == "paused" and shows(page, 0), "the oldest window")


def test_the_page_says_how_much_it_keeps(page: Viewer) -> None:
    session = page.get("sessions")[0]
    assert session["kept"] == session["windowsAnswered"]
    assert session["keptBytes"] > session["kept"] * 4096
    assert page.text(".kept").endswith(f"{session['keptBytes'] / 2**20:.1f} of 48 MB")


def test_the_ring_keeps_the_newest_within_its_bytes(page: Viewer) -> None:
    got = page.run("""
        const { Ring } = await import('/viewer/ring.js');
        const ring = new Ring(100);
        const before = [ring.first, ring.last, ring.length];
        for (let n = 0; n < 50; n++) ring.push({ n, bytes: 10 + (n % 3) });
        const old = { id: 0 };
        const kept = Array.from({ length: ring.length }, (_, i) => ring.at(i).n);
        ring.push({ n: 'huge', bytes: 1000 });
        return {
          before, kept, alone: [ring.length, ring.last.n, ring.bytes], old: ring.indexOf(old),
          ending: ring.endingWith(ring.last, 5).map(({ n }) => n),
        };
    """)
    assert got["before"] == [None, None, 0]
    assert got["kept"] == list(range(50 - len(got["kept"]), 50))
    assert 100 - 12 < sum(10 + n % 3 for n in got["kept"]) <= 100
    assert got["alone"] == [1, "huge", 1000]
    assert (got["old"], got["ending"]) == (0, ["huge"])


def test_the_heat_map_reads_out_cells_and_follows_the_window_in_view(page: Viewer) -> None:
    layers = [layer for layer in page.get("lastResult")["activity"]["layers"] if layer["neurons"]]
    page.wait(lambda: len(page.get("layerMarks")) == len(layers), "a row for each layer")
    blank = page.run("return document.createElement('canvas').toDataURL()")
    assert page.run("return document.querySelector('#raster canvas').toDataURL()") != blank
    assert page.text("#raster .scale").split()[0].startswith("0")

    page.slide(".history", 5)
    page.wait(lambda: shows(page, 5), "window 5")
    shown = page.get("shown")
    rate = f"{100 * shown['activity']['firing_rate']:.1f}"
    page.wait(lambda: page.text("#raster strong").startswith(rate), "the rate of that window")

    # By keyboard, beginning at the first layer of the window in view.
    canvas = page.element("#raster canvas")
    page.driver.execute_script("document.querySelector('#show-classes button:last-child').focus()")
    for _ in range(len(page.elements("#classes input")) + 1):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert page.driver.switch_to.active_element == canvas
    page.wait(lambda: page.text("#raster .reading").startswith(f"{layers[0]['name']}, window 5:"), "the first layer")
    canvas.send_keys(Keys.ARROW_DOWN)
    of = next(each for each in shown["activity"]["layers"] if each["name"] == layers[1]["name"])
    page.wait(lambda: layers[1]["name"] in page.text("#raster .reading"), "the next layer")
    said = page.text("#raster .reading")
    assert f"{of['neurons']:,} neurons" in said
    assert f"{100 * of['firing_rate']:.1f}" in said
    canvas.send_keys(Keys.ARROW_LEFT)
    page.wait(lambda: f"{layers[1]['name']}, window 4:" in page.text("#raster .reading"), "the window before")


def test_layers_that_are_silent_or_saturated_are_marked(page: Viewer) -> None:
    marks = page.run("""
        const { Raster } = await import('/viewer/raster.js');
        const host = document.querySelector('#raster').cloneNode(true);
        const raster = new Raster(host, () => {});
        const layer = (name, rate) => ({ name, rate, neurons: 100 });
        const sample = (window, rate) => ({
          window,
          rate,
          layers: [layer('dead', 0), layer('full', 0.95), layer('sane', rate), layer('late', window < 25 ? 0.1 : 0)],
        });
        const marks = [];
        const samples = [];
        for (let window = 0; window < 50; window++) {
          samples.push(sample(window, 0.05));
          raster.draw(samples, null);
          marks.push(raster.marks.join());
        }
        return marks;
    """)
    assert marks[5] == ",,,"
    assert marks[30] == "silent,saturated,,"
    assert marks[49] == "silent,saturated,,silent"
