"""Bad input over the WebSocket: a clear close code, and a session that lives on as if nothing had been sent."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

from models.events import EventBatch, SensorSize
from service.wire import messages
from service.wire.events import HEADER, MAGIC, EventEncoding, encode_packet
from service.wire.messages import MessageType, encode_message
from tests.service.harness import (
    SENSOR,
    WINDOW_US,
    RefusedError,
    Result,
    Stream,
    hello,
    make_events,
    one_connection,
    random_events,
    same,
)

WINDOWS = 3
END_US = WINDOWS * WINDOW_US
HALF = 2000
EVENTS = random_events(11, windows=WINDOWS)
LAST_T = int(EVENTS.t[HALF - 1])
GOOD = encode_packet(EVENTS[HALF:], SENSOR)
WIDE = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])


@pytest.fixture(scope="module")
def reference(server: str) -> list[Result]:
    return one_connection(server, EVENTS, END_US)


def header(**changes: int | bytes) -> bytes:
    """A packet header without events, changed."""
    fields: dict[str, int | bytes] = {
        "magic": MAGIC,
        "encoding": 0,
        "reserved": 0,
        "seq": 0,
        "time_base": END_US,
        "width": SENSOR.width,
        "height": SENSOR.height,
        "count": 0,
    }
    return HEADER.pack(*{**fields, **changes}.values())


def wide(*rows: tuple[int, int, int, int]) -> bytes:
    """A packet of 13-byte records that nothing has checked."""
    return header(encoding=EventEncoding.WIDE, count=len(rows)) + np.array(list(rows), WIDE).tobytes()


def events_of(packet: bytes) -> Callable[[int], bytes]:
    return lambda n: messages.encode_events(n, packet)


def raw(type: int, *, flags: int = 0, reserved: int = 0, length: int | None = None, payload: bytes = b"") -> bytes:
    return struct.pack("<BBHIQ", type, flags, reserved, len(payload) if length is None else length, 2) + payload


T = LAST_T + 1
BAD_MESSAGES: dict[str, Callable[[int], bytes | str]] = {
    "text": lambda _: "hello again",
    "text that looks like a message": lambda _: '{"type": "events"}',
    "no bytes": lambda _: b"",
    "half a header": lambda _: b"\x01" * 15,
    "an unknown type": lambda _: raw(77),
    "a server's type": lambda _: raw(MessageType.RESULT),
    "flags": lambda _: raw(MessageType.RESET, flags=1),
    "reserved bits": lambda _: raw(MessageType.RESET, reserved=1),
    "a length too long": lambda _: raw(MessageType.RESET, length=1),
    "a length too short": lambda _: raw(MessageType.EVENTS, length=4, payload=GOOD),
    "a length of four gigabytes": lambda _: raw(MessageType.EVENTS, length=2**32 - 1, payload=GOOD),
    "a number that skips": lambda n: messages.encode_events(n + 1, GOOD),
    "the largest number": lambda _: messages.encode_events(2**64 - 1, GOOD),
    "number zero": lambda _: messages.encode_events(0, GOOD),
    "a reset with a payload": lambda n: encode_message(MessageType.RESET, n, b"x"),
    "an end with a payload": lambda n: encode_message(MessageType.END, n, b"x"),
    "an advance without a time": lambda n: encode_message(MessageType.ADVANCE, n, b"\0" * 7),
    "an advance to a negative time": lambda n: messages.encode_advance(n, -1),
    "an advance to the end of time": lambda n: messages.encode_advance(n, 2**63 - 1),
    "an advance too far": lambda n: messages.encode_advance(n, LAST_T + 1000 * WINDOW_US),
    "no packet": events_of(b""),
    "another magic": events_of(header(magic=b"SEV2")),
    "an unknown encoding": events_of(header(encoding=2)),
    "a reserved field": events_of(header(reserved=1)),
    "a negative time base": events_of(header(time_base=-1)),
    "a time base that overflows": events_of(header(time_base=2**63 - 1, count=1) + b"\xff" * 8),
    "no width": events_of(header(width=0)),
    "no height": events_of(header(height=0)),
    "records that are missing": events_of(header(count=1)),
    "four billion records that are missing": events_of(header(count=2**32 - 1)),
    "a record cut short": events_of(GOOD[:-1]),
    "bytes after the records": events_of(GOOD + b"\0"),
    "two packets": events_of(GOOD + GOOD),
    "another sensor": events_of(encode_packet(EVENTS[HALF:], SensorSize(SENSOR.width, SENSOR.height + 1))),
    "x outside": events_of(wide((T, 0, 0, 1), (T, SENSOR.width, 0, 1))),
    "y outside": events_of(wide((T, 0, 0, 1), (T, 0, SENSOR.height, 1))),
    "a polarity of 2": events_of(wide((T, 0, 0, 2))),
    "a negative time": events_of(wide((-1, 0, 0, 1))),
    "the smallest time": events_of(wide((-(2**63), 0, 0, 1))),
    "the largest time": events_of(wide((2**63 - 1, 0, 0, 1))),
    "time that goes back in a packet": events_of(wide((T + 5, 0, 0, 1), (T + 4, 0, 0, 1))),
    "time before the last event": events_of(encode_packet(make_events((LAST_T - 1, 0, 0, 1)), SENSOR)),
    "time before the first window": events_of(encode_packet(make_events((0, 0, 0, 1)), SENSOR)),
    "a jump in time": events_of(encode_packet(make_events((T, 0, 0, 1), (T + 2**32 - 1, 0, 0, 1)), SENSOR)),
}


@pytest.mark.parametrize("what", BAD_MESSAGES)
def test_a_bad_message_closes_with_4422_and_changes_nothing(server: str, reference: list[Result], what: str) -> None:
    with Stream(server) as stream:
        results = stream.events(EVENTS[:HALF])
        stream.socket.send(BAD_MESSAGES[what](stream.sequence))
        refused = stream.refusal()
    assert refused.code == 4422
    assert refused.problem is not None
    assert refused.problem["code"] == 4422
    assert refused.problem["type"] == "error"
    assert refused.problem["detail"].startswith(refused.reason.rstrip("�"))
    with Stream.resume(server, stream.token) as resumed:
        assert resumed.sequence == 2
        assert resumed.welcome["next_window"] == len(results)
        results += resumed.events(EVENTS[HALF:]) + resumed.advance(END_US)
    assert same(results, reference)


@pytest.mark.parametrize("length", range(0, 32 + 2 * 8))
def test_a_packet_cut_at_any_byte_is_refused(server: str, length: int) -> None:
    packet = encode_packet(make_events((5, 1, 2, 1), (6, 3, 4, 0)), SENSOR)
    with Stream(server) as stream:
        stream.socket.send(messages.encode_events(1, packet[:length]))
        assert stream.refusal().code == 4422
    with Stream.resume(server, stream.token) as resumed:
        assert resumed.events(make_events((5, 1, 2, 1), (6, 3, 4, 0))) == []


def test_the_message_names_the_first_event_to_blame(server: str) -> None:
    with Stream(server) as stream:
        stream.socket.send(messages.encode_events(1, wide((T, 0, 0, 1), (T, 1, 0, 1), (T, 70, 0, 1), (T, 71, 0, 1))))
        refused = stream.refusal()
    assert refused.problem is not None
    assert "x[2] = 70" in refused.problem["detail"]
    assert refused.problem["errors"][0]["field"] == "x"


BAD_HELLOS: dict[str, dict[str, object] | str | bytes] = {
    "bytes": b"hello",
    "no JSON": "hello",
    "nothing": "",
    "a number": "42",
    "null": "null",
    "a list": "[]",
    "an empty object": "{}",
    "deep nesting": "[" * 60_000,
    "too long": " " * 70_000 + "{}",
    "half a surrogate pair": '{"type": "hello", "version": 1, "resume": "\\ud800"}',
    "half a surrogate pair for a model": '{"type": "hello", "version": 1, "model": "\\ud800", '
    '"sensor": {"width": 1, "height": 1}}',
    "another type": hello(type="welcome"),
    "another version": hello(version=2),
    "a version that is true": hello(version=True),
    "a version as text": hello(version="1"),
    "no sensor": {"type": "hello", "version": 1},
    "a sensor of nothing": hello(sensor={}),
    "a sensor as text": hello(sensor="64x48"),
    "a width of 0": hello(sensor={"width": 0, "height": 48}),
    "a negative width": hello(sensor={"width": -5, "height": 48}),
    "a width that is true": hello(sensor={"width": True, "height": 48}),
    "a width with a fraction": hello(sensor={"width": 64.5, "height": 48}),
    "a width as text": hello(sensor={"width": "64", "height": 48}),
    "a huge width": hello(sensor={"width": 10**30, "height": 48}),
    "a width of NaN": hello(sensor={"width": float("nan"), "height": 48}),
    "too many pixels": hello(sensor={"width": 4096, "height": 4096}),
    "too long a side": hello(sensor={"width": 65535, "height": 1}),
    "a window of 0": hello(window={"us": 0}),
    "a negative window": hello(window={"us": -1}),
    "too short a window": hello(window={"us": 1}),
    "too long a window": hello(window={"us": 10**12}),
    "a window of infinity": hello(window={"us": float("inf")}),
    "a window as a number": hello(window=20_000),
    "an unknown mask": hello(mask="jpeg"),
    "a mask that only HTTP knows": hello(mask="npy"),
    "metrics as text": hello(metrics="yes"),
    "a model that is a number": hello(model=3),
    "an unknown field": hello(windows={"us": 20_000}),
    "a resume token that is a number": {"type": "hello", "version": 1, "resume": 7},
    "resume and a sensor": hello(resume="abc.def"),
}


@pytest.mark.parametrize("what", BAD_HELLOS)
def test_a_bad_hello_closes_with_4400(server: str, what: str) -> None:
    with pytest.raises(RefusedError) as caught:
        Stream(server, BAD_HELLOS[what])
    assert caught.value.code == 4400
    assert caught.value.problem is not None
    assert caught.value.problem["detail"]


@pytest.mark.parametrize("name", ["nope", "", "../zoo/edge-s", "edge-s.json", "x" * 10_000, "é\u202e\0"])
def test_an_unknown_model_closes_with_4404_and_says_which_there_are(server: str, name: str) -> None:
    with pytest.raises(RefusedError) as caught:
        Stream(server, hello(model=name))
    assert caught.value.code == 4404
    assert caught.value.problem is not None
    assert "edge-s" in caught.value.problem["detail"]


@pytest.mark.parametrize("token", ["", ".", "abc", "abc.def", "é.ü", "x" * 10_000])
def test_an_unknown_token_closes_with_4404(server: str, token: str) -> None:
    with pytest.raises(RefusedError) as caught:
        Stream.resume(server, token)
    assert caught.value.code == 4404


def test_the_id_alone_is_no_token(server: str) -> None:
    with Stream(server) as stream:
        id = stream.welcome["session"]
        for token in (id, f"{id}.", f"{id}.{'a' * 32}", stream.token[:-1], stream.token + "a"):
            with pytest.raises(RefusedError) as caught:
                Stream.resume(server, token)
            assert caught.value.code == 4404
        assert stream.events(make_events((5, 1, 2, 1))) == []


@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_are_refused(server: str, reference: list[Result], seed: int) -> None:
    """Random messages, and good ones with random bytes in them: refused, or taken for what they say."""
    rng = np.random.default_rng(seed)
    good = bytearray(messages.encode_events(2, GOOD[: 32 + 8 * 20]))
    good[16 + 28 : 16 + 32] = (20).to_bytes(4, "little")
    with Stream(server) as stream:
        results = stream.events(EVENTS[:HALF])
    for _ in range(10):
        data = bytearray(rng.bytes(int(rng.integers(0, 80)))) if rng.random() < 0.3 else bytearray(good)
        if len(data) > 28:
            # Past the message's number and the packet's records, so that what is taken can never be events.
            data[int(rng.integers(0, 12)) if rng.random() < 0.5 else 16 + int(rng.integers(0, 8))] ^= 0xA5
        with Stream.resume(server, stream.token) as attempt:
            attempt.socket.send(bytes(data))
            assert attempt.refusal().code == 4422
    with Stream.resume(server, stream.token) as resumed:
        assert resumed.sequence == 2
        results += resumed.events(EVENTS[HALF:]) + resumed.advance(END_US)
    assert same(results, reference)


def test_a_client_that_never_reads_does_not_hold_up_others(server: str, reference: list[Result]) -> None:
    big = SensorSize(640, 480)
    with Stream(server, hello(sensor={"width": 640, "height": 480}, mask="raw", window={"us": 1000})) as deaf:
        empty = EventBatch.empty()
        deaf.socket.send(messages.encode_events(1, encode_packet(make_events((0, 0, 0, 1)), big)))
        deaf.socket.send(messages.encode_advance(2, 20_000))
        deaf.socket.send(messages.encode_events(3, encode_packet(empty, big)))
        assert same(one_connection(server, EVENTS, END_US), reference)
        deaf.drop()
