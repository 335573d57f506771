"""The image and docker-compose.yml do what docs/deploy.md says. Runs if SPIKESEG_TEST_CONTAINER=1: it takes minutes."""

from __future__ import annotations

import os

import pytest

from tests.container.prove import prove, reason_not_to_run


@pytest.mark.skipif(os.environ.get("SPIKESEG_TEST_CONTAINER") != "1", reason="SPIKESEG_TEST_CONTAINER is not 1")
def test_the_built_image_serves_drains_and_fails_over() -> None:
    """Of the image ``spikeseg``; SPIKESEG_TEST_STAND_IN names an image for third parties' programs."""
    if reason := reason_not_to_run():
        pytest.skip(reason)
    report = prove(os.environ.get("SPIKESEG_TEST_STAND_IN"))
    assert report["drain"]["exit_code"] == 0
    assert report["scale"]["sessions_taken_over"] >= 1
