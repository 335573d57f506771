"""Clients of the server, and a server with limits that a test can reach."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from selenium import webdriver

from tests.service.browser import require_browser, running_chromium
from tests.service.harness import PATIENCE_S, running_server


@pytest.fixture
def http(server: str) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=server, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="session")
def strict_server() -> Iterator[str]:
    """Address of a server with limits that a test can reach."""
    with running_server(
        max_sessions=60,
        idle_seconds=3.0,
        ended_seconds=1.0,
        reap_seconds=0.1,
        hello_seconds=3.0,
        body_seconds=3.0,
        max_body_bytes=20_000,
        max_json_bytes=5_000,
        max_packets_per_body=20,
        max_recording_bytes=30_000,
        max_message_bytes=10_000,
        max_windows_per_message=8,
        max_events_per_window=1_000,
        max_sensor_side=100,
        max_sensor_pixels=5_000,
        min_window_us=1_000,
        max_window_us=1_000_000,
        demo_recording="/nonexistent/street.aedat4",
    ) as url:
        yield url


@pytest.fixture
def strict_http(strict_server: str) -> Iterator[httpx.Client]:
    """A client of the strict server."""
    with httpx.Client(base_url=strict_server, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser."""
    require_browser()
    with running_chromium() as driver:
        yield driver
