"""Several sessions side by side, and what becomes of them when connections break, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import Select

from service.wire import events as wire_events
from tests.clients.cutting_proxy import CuttingProxy
from tests.service.browser import VIEWER_SENSOR, Viewer, recording
from tests.service.harness import running_server


@pytest.fixture
def page(chromium: webdriver.Chrome, server: str) -> Iterator[Viewer]:
    """The viewer with one session that plays the demo recording."""
    viewer = Viewer(chromium, server)
    viewer.resize(1440, 900)
    viewer.open()
    viewer.wait_for_windows(1)
    yield viewer
    assert viewer.console_errors() == []
    viewer.leave()


def add(page: Viewer) -> int:
    """Another session, which is then the chosen one; its number."""
    number = len(page.get("sessions")) + 1
    page.press("#add")
    page.wait_for_windows(2, session=number)
    return number


def test_two_sessions_have_their_own_model_window_and_source(page: Viewer, tmp_path: Path) -> None:
    add(page)
    Select(page.element("#model")).select_by_value("edge-l")
    page.wait(lambda: page.get("sessions")[1]["model"] == "edge-l" and page.last("t_end") > 0, "the other model")
    path = tmp_path / "mine.sev"
    path.write_bytes(b"".join(wire_events.encode_packets(recording(), VIEWER_SENSOR)))
    page.choose_file(path)
    page.wait(lambda: page.get("sessions")[1]["source"] == "mine.sev", "the recording")
    page.wait_for_windows(3, session=1)
    page.wait_for_windows(3, session=2)
    first, second = page.get("sessions")
    assert (first["model"], first["source"]) == ("edge-s", "Demo recording")
    assert (second["model"], second["source"]) == ("edge-l", "mine.sev")
    assert page.pixels(page.stage(1) + " canvas.input") != page.pixels(page.stage(2) + " canvas.input")


def test_choosing_shows_the_settings_and_numbers_of_that_session(page: Viewer) -> None:
    add(page)
    Select(page.element("#window")).select_by_value("10000")
    page.wait(lambda: page.last("t_end") - page.last("t_start") == 10_000, "windows of 10 ms")
    assert page.text("#chosen") == "Session 2"
    page.press(page.stage(1) + " .choose")
    assert page.text("#chosen") == "Session 1"
    assert Select(page.element("#window")).first_selected_option.get_attribute("value") != "10000"
    assert page.last("t_end") - page.last("t_start") != 10_000
    page.keys("2")
    assert page.text("#chosen") == "Session 2"
    assert Select(page.element("#window")).first_selected_option.get_attribute("value") == "10000"


def test_there_may_be_four_and_closing_one_leaves_the_others(page: Viewer) -> None:
    assert page.elements(".stage .close")[0].is_displayed() is False
    for _ in range(3):
        add(page)
    assert page.element("#add").is_enabled() is False
    page.keys("n")
    assert len(page.get("sessions")) == 4
    page.press(page.stage(2) + " .close")
    assert [session["number"] for session in page.get("sessions")] == [1, 2, 3]
    assert "choose" in page.driver.switch_to.active_element.get_attribute("class")
    for number in (1, 2, 3):
        page.wait_for_windows(2, session=number)
    assert page.element("#add").is_enabled() is True
    assert page.run("return document.documentElement.scrollWidth") <= 1440


def test_pausing_one_leaves_the_other_running(page: Viewer) -> None:
    add(page)
    page.pause()
    page.wait_for_windows(5, session=1)
    assert [session["state"] == "paused" for session in page.get("sessions")] == [False, True]


def test_one_that_fails_disturbs_no_other(page: Viewer) -> None:
    add(page)
    page.run("""
        const select = document.getElementById('model');
        select.add(new Option('no-such-model', 'no-such-model'));
        select.value = 'no-such-model';
        select.dispatchEvent(new Event('change'));
    """)
    page.wait(lambda: page.get("sessions")[1]["state"] == "ended", "the refusal")
    said = page.wait(page.banner, "the banner")
    assert "The server knows no such model or session (code 4404)" in said
    assert page.text(page.stage(2) + " .link-text") == "Closed"
    assert page.text(page.stage(2) + " .link-note") == "code 4404"
    assert "no such model" in page.text(page.stage(2) + " .message")
    assert page.element(page.stage(1) + " .banner").is_displayed() is False
    page.wait_for_windows(5, session=1)
    page.press_in_banner("Use the default model")
    page.wait_for_windows(2, session=2)


def test_a_broken_connection_is_taken_up_again_and_the_page_says_so(chromium: webdriver.Chrome, server: str) -> None:
    with CuttingProxy(server, []) as proxy:
        page = Viewer(chromium, proxy.url)
        page.resize(1440, 900)
        page.open()
        page.wait_for_windows(6)
        add(page)
        page.wait(lambda: page.get("sessions")[0]["unanswered"] >= 0, "both")
        proxy.break_all()
        for number in (1, 2):
            page.wait(lambda n=number: page.get("sessions")[n - 1]["resumes"] == 1, f"session {number} to be resumed")
            page.wait_for_windows(6, session=number)
        page.wait(lambda: "resumed 1×" in page.text(page.stage(1) + " .link-note"), "word of it")
        assert page.banner() is None
        assert all(session["trouble"] == "" for session in page.get("sessions"))
        page.leave()


def test_while_the_server_is_away_the_page_says_why_and_how_long(chromium: webdriver.Chrome) -> None:
    with running_server() as server:
        page = Viewer(chromium, server)
        page.resize(1440, 900)
        page.open()
        page.wait_for_windows(3)
    page.wait(lambda: page.get("state") == "reconnecting", "the state")
    page.wait(lambda: page.text(".link-text") == "Reconnecting", "the state in words")
    page.wait(lambda: "(code 10" in page.get("sessions")[0]["trouble"], "the reason")
    said = page.wait(page.banner, "the banner")
    assert "The server cannot be reached" in said
    assert "keeps trying" in said
    page.leave()
