"""A stream that is followed in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from clients import Client, Result, StreamState, open_source
from clients.errors import InputError, UnknownModelError
from models.events import EventBatch
from tests.clients.scenes import write_npz
from tests.clients.test_client import assert_same
from tests.service.harness import PATIENCE_S, SENSOR, WINDOW_US, random_events

EVENTS = random_events(31, windows=4)


def endless() -> Iterator[EventBatch]:
    """The events again and again, each time later."""
    span = 4 * WINDOW_US
    for number in range(10**6):
        yield EventBatch(EVENTS.t + number * span, EVENTS.x, EVENTS.y, EVENTS.p)


def test_every_result_is_told_of_and_the_latest_kept(client: Client, tmp_path: Path) -> None:
    told: list[Result] = []
    with (
        open_source(write_npz(tmp_path / "events.npz", EVENTS, SENSOR)) as source,
        client.follow(source, on_result=told.append, window_us=WINDOW_US) as follower,
    ):
        assert follower.wait(PATIENCE_S)
        assert not follower.running
    assert_same(told, client.stream([EVENTS], SENSOR, window_us=WINDOW_US))
    assert follower.latest is told[-1]
    assert follower.session.classes[4].name == "human"
    assert follower.health.state is StreamState.CLOSED


def test_a_follower_is_stopped_after_its_open_window(server: str, client: Client) -> None:
    enough = threading.Event()

    def count(result: Result) -> None:
        if result.window == 10:
            enough.set()

    follower = client.follow(endless(), SENSOR, on_result=count, window_us=WINDOW_US)
    assert enough.wait(PATIENCE_S)
    assert follower.running
    age = follower.health.result_age_s
    assert age is not None
    assert age < PATIENCE_S
    follower.stop()
    follower.stop()
    assert follower.latest is not None
    # Batches end with a window, so that the last of them was answered too.
    assert follower.latest.window % 4 == 3
    assert httpx.get(f"{server}/v1/sessions/{follower.session.id}").status_code == 404


def test_what_goes_wrong_is_raised_where_it_is_seen(client: Client) -> None:
    def shout(_: Result) -> None:
        raise RuntimeError("the listener fails")

    follower = client.follow(endless(), SENSOR, on_result=shout, window_us=WINDOW_US)
    assert follower.wait(PATIENCE_S)
    with pytest.raises(RuntimeError, match="the listener fails"):
        follower.stop()
    with (
        pytest.raises(InputError, match="earlier"),
        client.follow([EVENTS[::-1]], SENSOR, window_us=WINDOW_US) as failing,
    ):
        failing.wait(PATIENCE_S)
    with pytest.raises(KeyError, match="its own"), client.follow(endless(), SENSOR) as left:
        raise KeyError("its own")
    assert not left.running
    with pytest.raises(UnknownModelError):
        client.follow(endless(), SENSOR, model="huge")
    with pytest.raises(InputError, match="how large its sensor is"):
        client.follow(endless())
