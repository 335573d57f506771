"""What the clients are tested with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import Client
from tests.service.harness import PATIENCE_S, running_server


@pytest.fixture(scope="session")
def small_server() -> Iterator[str]:
    """Address of a server with limits that a test can reach."""
    with running_server(max_sessions=2, max_message_bytes=10_000, max_windows_per_message=8) as url:
        yield url


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    """A client of the server."""
    with Client(server, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of real recordings."""
    root = os.environ.get("SPIKESEG_DATA")
    if not root:
        pytest.skip("SPIKESEG_DATA is not set: the real recordings are kept outside of the project")
    return Path(root) / "recordings"
