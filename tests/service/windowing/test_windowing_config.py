"""How a stream is set up, as plain values and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from service.streaming.windowing import CountWindows, SnapshotError, StreamConfig, TimeWindows
from tests.service.windowing.streams import CONFIGS


@settings(deadline=None)
@given(CONFIGS)
def test_a_config_survives_json(config: StreamConfig) -> None:
    assert StreamConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_as_plain_values() -> None:
    assert StreamConfig(TimeWindows(50_000, 10_000), "leak", 500, 32, "reset").to_json() == {
        "window": {"kind": "time", "us": 50_000, "stride_us": 10_000},
        "gaps": "leak",
        "reorder_us": 500,
        "wrap_bits": 32,
        "on_restart": "reset",
    }
    assert StreamConfig(CountWindows(10, 5)).to_json()["window"] == {"kind": "count", "count": 10, "stride": 5}


@pytest.mark.parametrize(
    "change",
    [
        {"window": None},
        {"window": {}},
        {"window": {"kind": "space", "us": 1, "stride_us": 1}},
        {"window": {"kind": ["time"], "us": 1, "stride_us": 1}},
        {"window": {"kind": "time", "us": 1, "stride_us": 2}},
        {"window": {"kind": "time", "us": 2**60, "stride_us": 2}},
        {"window": {"kind": "time", "us": True, "stride_us": 1}},
        {"window": {"kind": "time", "us": 5.0, "stride_us": 1}},
        {"window": {"kind": "time", "us": 5}},
        {"window": {"kind": "count", "us": 5, "stride_us": 5}},
        {"window": {"kind": "count", "count": 5, "stride": 0}},
        {"gaps": "jump"},
        {"gaps": None},
        {"reorder_us": -1},
        {"reorder_us": 2**60},
        {"reorder_us": "5"},
        {"wrap_bits": 7},
        {"wrap_bits": 53},
        {"wrap_bits": 10, "reorder_us": 257},
        {"on_restart": "ignore"},
        {"color": 1},
    ],
)
def test_what_is_no_config(change: dict[str, Any]) -> None:
    with pytest.raises(SnapshotError):
        StreamConfig.from_json(StreamConfig(TimeWindows(5, 5)).to_json() | change)


@pytest.mark.parametrize("document", [None, [], "config", {}, {"window": {}}])
def test_what_is_no_config_at_all(document: object) -> None:
    with pytest.raises(SnapshotError) as caught:
        StreamConfig.from_json(document)
    assert caught.value.problem()["title"] == "The snapshot cannot be used"
    assert caught.value.code == "snapshot"


def test_sizes_that_cannot_be() -> None:
    for us, stride_us in ((0, 0), (5, 0), (5, 6), (2**53, 1)):
        with pytest.raises(ValueError, match="stride_us"):
            TimeWindows(us, stride_us)
    for count, stride in ((0, 0), (5, 0), (5, 6)):
        with pytest.raises(ValueError, match="stride"):
            CountWindows(count, stride)
    with pytest.raises(ValueError, match="reorder_us"):
        StreamConfig(TimeWindows(5, 5), reorder_us=-1)
    with pytest.raises(ValueError, match="at most 64"):
        StreamConfig(TimeWindows(5, 5), reorder_us=65, wrap_bits=8)
    with pytest.raises(ValueError, match="wrap_bits"):
        StreamConfig(TimeWindows(5, 5), wrap_bits=64)
