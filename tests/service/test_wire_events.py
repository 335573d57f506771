"""Event packets and JSON: round trips, and refusal of everything that is not one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.events import EventBatch, SensorSize
from service.wire.errors import PacketError
from service.wire.events import (
    HEADER,
    MAX_TIME_US,
    EventEncoding,
    check_events,
    decode_packet,
    decode_packets,
    encode_packet,
    encode_packets,
    events_from_json,
    events_to_json,
)
from tests.service.harness import make_events

SENSOR = SensorSize(40, 30)


@st.composite
def batches(draw: st.DrawFn, max_span: int = 2**32 - 1) -> EventBatch:
    """Ordered events inside ``SENSOR``, times at most ``max_span`` apart."""
    n = draw(st.integers(0, 30))
    start = draw(st.integers(0, MAX_TIME_US - max_span))
    t = sorted(draw(st.lists(st.integers(start, start + max_span), min_size=n, max_size=n)))

    def column(stop: int, kind: type[np.generic]) -> NDArray[Any]:
        return np.array(draw(st.lists(st.integers(0, stop - 1), min_size=n, max_size=n)), kind)

    return EventBatch(
        np.array(t, np.int64),
        column(SENSOR.width, np.uint16),
        column(SENSOR.height, np.uint16),
        column(2, np.uint8),
    )


def same(left: EventBatch, right: EventBatch) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        and getattr(left, name).dtype == getattr(right, name).dtype
        for name in "txyp"
    )


@given(batches(), st.sampled_from(EventEncoding), st.integers(0, 2**64 - 1))
def test_packet_round_trip(events: EventBatch, encoding: EventEncoding, seq: int) -> None:
    data = encode_packet(events, SENSOR, seq=seq, encoding=encoding)
    assert len(data) == 32 + len(events) * encoding.record.itemsize
    packet = decode_packet(data)
    assert (packet.seq, packet.sensor) == (seq, SENSOR)
    assert same(packet.events, events)


def test_the_layout_is_the_one_of_the_contract() -> None:
    events = make_events((1005, 3, 2, 1), (1007, 4, 1, 0))
    assert encode_packet(events, SENSOR, seq=9, time_base=1000) == (
        b"SEV1" + bytes([0, 0, 0, 0]) + (9).to_bytes(8, "little") + (1000).to_bytes(8, "little")
        + bytes([40, 0, 30, 0, 2, 0, 0, 0])
        + bytes([5, 0, 0, 0, 3, 0, 2, 0x80])
        + bytes([7, 0, 0, 0, 4, 0, 1, 0])
    )  # fmt: skip
    wide = encode_packet(events, SENSOR, encoding=EventEncoding.WIDE)
    assert wide[4:6] == bytes([1, 0])
    assert wide[32:45] == (1005).to_bytes(8, "little") + bytes([3, 0, 2, 0, 1])


@given(st.lists(batches(max_span=1000), max_size=4), st.sampled_from(EventEncoding))
def test_packets_one_after_the_other(parts: list[EventBatch], encoding: EventEncoding) -> None:
    parts.sort(key=lambda part: int(part.t[0]) if len(part) else 0)
    ends = [int(part.t[-1]) for part in parts if len(part)]
    starts = [int(part.t[0]) for part in parts if len(part)]
    data = b"".join(encode_packet(part, SENSOR, encoding=encoding) for part in parts)
    if any(start < end for start, end in zip(starts[1:], ends, strict=False)):
        with pytest.raises(PacketError, match="packet"):
            decode_packets(data)
    else:
        packets = decode_packets(data)
        assert len(packets) == len(parts)
        assert all(same(packet.events, part) for packet, part in zip(packets, parts, strict=True))


@given(batches(max_span=100_000), st.integers(1, 20_000), st.integers(1, 7))
def test_a_recording_is_cut_into_packets(events: EventBatch, packet_us: int, max_events: int) -> None:
    packets = [
        decode_packet(data) for data in encode_packets(events, SENSOR, packet_us=packet_us, max_events=max_events)
    ]
    assert same(EventBatch.concatenate([packet.events for packet in packets]), events)
    assert [packet.seq for packet in packets] == list(range(len(packets)))
    for packet in packets:
        assert 1 <= len(packet.events) <= max_events
        assert packet.events.t[0] // packet_us == packet.events.t[-1] // packet_us


@pytest.mark.parametrize("encoding", EventEncoding)
def test_truncated_at_every_byte(encoding: EventEncoding) -> None:
    data = encode_packet(make_events((5, 1, 2, 1), (6, 3, 4, 0), (6, 3, 4, 1)), SENSOR, encoding=encoding)
    for length in range(len(data)):
        with pytest.raises(PacketError):
            decode_packet(data[:length])
        if length:
            with pytest.raises(PacketError):
                decode_packets(data + data[:length])
    with pytest.raises(PacketError):
        decode_packet(data + b"\0")
    assert decode_packets(b"") == []


@given(st.binary(max_size=100))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    for attempt in (data, b"SEV1" + data, b"SEV1\0\0\0\0" + data):
        try:
            packet = decode_packet(attempt)
        except PacketError:
            continue
        check_events(packet.events, packet.sensor)


@given(batches(max_span=1000), st.data())
def test_a_flipped_bit_never_gives_events_outside(events: EventBatch, data: st.DataObject) -> None:
    packet = bytearray(encode_packet(events, SENSOR, encoding=data.draw(st.sampled_from(EventEncoding))))
    bit = data.draw(st.integers(0, len(packet) * 8 - 1))
    packet[bit // 8] ^= 1 << bit % 8
    try:
        decoded = decode_packet(bytes(packet))
    except PacketError:
        return
    check_events(decoded.events, decoded.sensor)


@pytest.mark.parametrize("encoding", EventEncoding)
@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("x", np.array([1, -1]), r"x\[1\] = -1 is outside the 40x30 sensor"),
        ("x", np.array([-65_530, 1], np.int32), r"x\[0\] = -65530 is outside"),
        ("y", np.array([1, -1], np.int8), r"y\[1\] = -1 is outside the 40x30 sensor"),
        ("p", np.array([1, -1]), r"p\[1\] = -1 is neither 0 \(OFF\) nor 1 \(ON\)"),
        ("x", np.array([1.5, 2.0]), "x is of float64, not of integers"),
        ("t", np.array([1.5, 2.0]), "t is of float64, not of integers"),
    ],
)
def test_columns_of_other_types_are_not_cut_down_to_other_numbers(
    encoding: EventEncoding, field: str, values: np.ndarray, message: str
) -> None:
    columns = {name: np.array([0, 1]) for name in ("t", "x", "y", "p")} | {field: values}
    with pytest.raises(PacketError, match=message) as refused:
        encode_packet(EventBatch(**columns), SENSOR, encoding=encoding)
    assert refused.value.field == field


def test_columns_of_other_types_are_taken_if_their_numbers_fit() -> None:
    two = np.array([0, 1])
    packet = decode_packet(encode_packet(EventBatch(two.astype(np.uint32), two, two.astype(np.int8), two > 0), SENSOR))
    assert same(packet.events, make_events((0, 0, 0, 0), (1, 1, 1, 1)))


def test_what_is_decoded_can_outlive_the_bytes_and_be_written() -> None:
    data = bytearray(encode_packet(make_events((5, 1, 2, 1)), SENSOR, encoding=EventEncoding.WIDE))
    events = decode_packet(bytes(data)).events
    for column in (events.t, events.x, events.y, events.p):
        assert column.flags.owndata
        assert column.flags.c_contiguous


@pytest.mark.parametrize(
    ("rows", "sensor", "field"),
    [
        ([(0, 40, 0, 0)], SENSOR, "x"),
        ([(0, 0, 30, 0)], SENSOR, "y"),
        ([(0, 0, 0, 2)], SENSOR, "p"),
        ([(-1, 0, 0, 0)], SENSOR, "time_base"),
        ([(MAX_TIME_US + 1, 0, 0, 0)], SENSOR, "time_base"),
        ([(5, 0, 0, 0), (4, 0, 0, 0)], SENSOR, "t"),
        ([(0, 0, 0, 0), (2**32, 0, 0, 0)], SENSOR, "t"),
        ([], SensorSize(0, 1), "width"),
        ([], SensorSize(1, 0), "height"),
        ([], SensorSize(70_000, 1), "width"),
        ([], SensorSize(1, 40_000), "height"),
    ],
)
def test_what_breaks_a_rule_is_not_written(
    rows: list[tuple[int, int, int, int]], sensor: SensorSize, field: str
) -> None:
    with pytest.raises(PacketError) as caught:
        encode_packet(make_events(*rows), sensor)
    assert caught.value.field == field


def test_a_time_base_after_the_events_is_not_written() -> None:
    with pytest.raises(PacketError):
        encode_packet(make_events((5, 0, 0, 0)), SENSOR, time_base=6)
    with pytest.raises(PacketError):
        encode_packet(make_events((5, 0, 0, 0)), SENSOR, seq=-1)


def test_a_tall_sensor_needs_wide_records() -> None:
    tall = SensorSize(1, 40_000)
    events = make_events((5, 0, 39_999, 1))
    assert same(decode_packet(encode_packet(events, tall, encoding=EventEncoding.WIDE)).events, events)
    header = HEADER.pack(b"SEV1", 0, 0, 0, 0, 1, 40_000, 0)
    with pytest.raises(PacketError, match="height"):
        decode_packet(header)


@given(batches())
def test_json_round_trip(events: EventBatch) -> None:
    assert same(events_from_json(events_to_json(events)), events)
    assert same(events_from_json(events_to_json(events).encode()), events)


@given(st.binary(max_size=60))
def test_any_json_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(PacketError):
        events_from_json(data)


@pytest.mark.parametrize("value", ["true", "null", "1.0", '"1"', "[1]", "{}", "NaN", "Infinity", "-1", "65536", "1e3"])
def test_json_values_that_are_no_coordinates(value: str) -> None:
    with pytest.raises(PacketError) as caught:
        events_from_json(f'{{"t": [1, 1], "x": [5, {value}], "y": [1, 1], "p": [0, 1]}}')
    if value not in ("NaN", "Infinity"):
        assert caught.value.field == "x"
        assert "x[1]" in str(caught.value)
