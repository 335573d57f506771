"""What a server tells of its checkpoints while a real Redis goes away and comes back, and of itself while it stops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.harness import WINDOW_US, Stream, metric, random_events
from tests.service.real_servers import MissingProgramError, RedisProcess, running_redis
from tests.service.replicas import Replica, wait_until


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis that forgets everything when it stops."""
    try:
        with running_redis(tmp_path) as redis:
            yield redis
    except MissingProgramError as error:
        pytest.skip(str(error))


@pytest.fixture
def replica(tmp_path: Path, redis: RedisProcess) -> Iterator[Replica]:
    """A server with that store."""
    replica = Replica(
        "replica", tmp_path, {"store_url": redis.url, "checkpoint_seconds": 0.1, "store_seconds": 0.3, "cores": 1}
    )
    replica.start()
    try:
        replica.wait_until_ready()
        yield replica
    finally:
        if replica.running:
            replica.kill()


def test_what_is_not_saved_grows_old_while_the_store_is_away(replica: Replica, redis: RedisProcess) -> None:
    def age() -> float:
        return metric(replica.url, "spikeseg_checkpoint_age_seconds")

    with Stream(replica.url) as stream:
        stream.events(random_events(1))
        wait_until(lambda: metric(replica.url, "spikeseg_checkpoint_seconds_count") > 0 and age() == 0, "it is saved")
        assert metric(replica.url, "spikeseg_checkpoint_failures_total") == 0
        redis.kill()
        stream.advance(4 * WINDOW_US)
        wait_until(lambda: metric(replica.url, "spikeseg_checkpoint_failures_total") >= 2, "checkpoints fail")
        assert metric(replica.url, "spikeseg_state_store_up") == 0
        was = age()
        assert was > 0
        wait_until(lambda: age() > was + 0.5, "what is not saved grows older")
        redis.start()
        wait_until(lambda: age() == 0, "it is saved at last")
        assert metric(replica.url, "spikeseg_state_store_up") == 1
        stream.end()
    assert age() == 0


def test_a_server_that_is_about_to_stop_is_not_ready(replica: Replica) -> None:
    assert metric(replica.url, "spikeseg_ready") == 1
    replica.terminate(lambda: wait_until(lambda: metric(replica.url, "spikeseg_ready") == 0, "it is not ready"))
