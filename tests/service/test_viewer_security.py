"""The pages in a real browser under their content security policy, and the field for a token."""

from __future__ import annotations

from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from service.auth import Scope, new_key
from service.key_file import add_key, load_keys, remove_keys
from tests.service.browser import Viewer
from tests.service.harness import running_server


def test_the_viewer_asks_for_a_token_and_plays_with_it(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    key, token = new_key("alice", [Scope.STREAM, Scope.READ])
    add_key(tmp_path / "keys", key)
    with running_server(keys_file=tmp_path / "keys") as url:
        page = Viewer(chromium, url)
        page.resize(1440, 900)
        page.open()
        give(page, "spikeseg_alice.wrong")
        page.wait(lambda: any("does not take" in each.text for each in dialogs(chromium)), "the refusal")
        give(page, token)
        page.wait_for_windows(5)
        errors = page.console_errors()
        assert all("401" in line for line in errors), errors
        # It stays for the tab, and stands in no address.
        chromium.refresh()
        page.wait_for_windows(5)
        assert dialogs(chromium) == []
        urls = chromium.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
        assert urls
        assert not any(token in each for each in [*urls, chromium.current_url])
        assert chromium.execute_script("return localStorage.length + document.cookie.length") == 0
        show_docs(page)
        assert page.console_errors() == []
        page.leave()


def test_whose_token_is_revoked_is_told_and_asked_for_another(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    old, token = new_key("alice", [Scope.STREAM, Scope.READ])
    add_key(file, old)
    with running_server(keys_file=file) as url:
        page = Viewer(chromium, url)
        page.resize(1440, 900)
        page.open()
        give(page, token)
        page.wait_for_windows(3)
        new, token = new_key("bob", [Scope.STREAM, Scope.READ])
        remove_keys(file, load_keys(file))
        add_key(file, new)
        page.wait(lambda: page.get("state") == "ended", "the end of the session")
        assert "revoked, or has expired (code 4401)" in page.wait(page.banner, "the banner")
        page.press_in_banner("Start a new session")
        give(page, token)
        page.wait_for_windows(3)
        assert page.get("state") in ("playing", "behind")
        page.leave()


def dialogs(driver: webdriver.Chrome) -> list[WebElement]:
    return driver.find_elements(By.CSS_SELECTOR, "dialog.token")


def give(page: Viewer, token: str) -> None:
    field = page.wait(lambda: page.driver.find_elements(By.ID, "token"), "the field for a token")[0]
    field.send_keys(token)
    page.driver.find_element(By.CSS_SELECTOR, "dialog.token button").click()


def show_docs(page: Viewer) -> None:
    page.driver.get(page.url + "docs")
    page.wait(lambda: len(page.driver.find_elements(By.CSS_SELECTOR, ".opblock")) > 10, "the calls")


def test_the_pages_keep_to_their_policy_and_load_nothing_from_elsewhere(
    chromium: webdriver.Chrome, server: str
) -> None:
    page = Viewer(chromium, server)
    watch = "window.broken = []; addEventListener('securitypolicyviolation', (e) => window.broken.push(e.blockedURI));"
    with page.script_on_load(watch):
        page.open()
        page.wait_for_windows(5)
        assert chromium.execute_script("return window.broken") == []
        show_docs(page)
        assert chromium.execute_script("return window.broken") == []
        urls = chromium.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
        assert all(each.startswith((server, "data:")) for each in urls), urls
        # The policy is one: what it forbids does not happen.
        chromium.execute_script("document.body.append(Object.assign(document.createElement('script'), {text: 'x'}))")
        page.wait(lambda: chromium.execute_script("return window.broken.length"), "the violation")
    assert "Content Security Policy" in "".join(page.console_errors())
    page.leave()
