"""The server that the tests talk to: the real process, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.service.harness import running_server

# How long an example takes says nothing on a machine that does other things too.
settings.register_profile("spikeseg", deadline=None)
settings.load_profile("spikeseg")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of a server with its default settings, but for room for the sessions of all tests."""
    with running_server(max_sessions=5000) as url:
        yield url
