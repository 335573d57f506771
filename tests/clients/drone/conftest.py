"""What the drone's companion is tested with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.replicas import Replica


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    """A service that can be killed and started again."""
    replica = Replica("drone", tmp_path, {})
    replica.start()
    replica.wait_until_ready()
    yield replica
    if replica.running:
        replica.kill()
