"""The stream's state machine, fed by hand: no socket, no clock of its own."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import Advance, Retries, StateChange, StreamOptions, StreamState, Timeouts
from clients.errors import (
    CapacityError,
    ConnectError,
    ConnectionLostError,
    DrainingError,
    InputError,
    NoAnswerError,
    ProtocolError,
    ServerFailureError,
    UnknownModelError,
    UnknownSessionError,
)
from clients.policies import is_passing
from clients.stream_protocol import (
    DEGRADED_AFTER_S,
    MAX_BYTES_IN_FLIGHT,
    MAX_MESSAGES_IN_FLIGHT,
    MAX_WINDOWS_PER_MESSAGE,
    WARM_UP_WINDOWS,
    StreamProtocol,
)
from models.events import SensorSize
from service.wire.events import decode_packet
from service.wire.messages import MessageType, decode_message, encode_ack, encode_message, encode_result
from tests.service.harness import make_events, random_events

SENSOR = SensorSize(64, 48)
WINDOW_US = 20_000


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.time = 50.0

    def __call__(self) -> float:
        return self.time


def welcome(**changes: Any) -> str:
    """What the service answers to a hello."""
    fields = {
        "type": "welcome",
        "version": 1,
        "session": "a-session",
        "resume": "a-token",
        "model": "edge-s",
        "classes": [{"id": 0, "name": "flat", "color": [1, 2, 3]}],
        "sensor": {"width": 64, "height": 48},
        "window": {"us": WINDOW_US},
        "next_sequence": 1,
        "next_window": 0,
        "credit": 32,
        "max_message_bytes": 1 << 20,
        **changes,
    }
    return json.dumps(fields)


def stream(clock: Clock | None = None, *, retries: Retries | None = None, **changes: Any) -> StreamProtocol:
    """A stream that has been welcomed."""
    protocol = StreamProtocol(
        {"type": "hello", "version": 1},
        SENSOR,
        StreamOptions(),
        timeouts=Timeouts(read=10.0),
        retries=retries or Retries(attempts=2),
        clock=clock or Clock(),
    )
    protocol.open()
    protocol.welcome(welcome(**changes))
    return protocol


def sent(protocol: StreamProtocol) -> list[bytes]:
    """Everything that it wants to send now."""
    messages = []
    while (message := protocol.next_message()) is not None:
        messages.append(message)
    return messages


def numbers(messages: list[bytes]) -> list[int]:
    return [decode_message(message).sequence for message in messages]


def test_a_session_is_resumed_by_its_token_and_opened_under_a_new_name_each_time() -> None:
    protocol = StreamProtocol({"type": "hello"}, SENSOR, StreamOptions(), timeouts=Timeouts(), retries=Retries())
    first, second = protocol.open(), protocol.open()
    assert first.session != second.session
    assert json.loads(first.hello) == {"type": "hello"}
    protocol.welcome(welcome())
    protocol.lost(ConnectionLostError("gone"))
    again = protocol.open()
    assert again.session == "a-session"
    assert json.loads(again.hello) == {"type": "hello", "version": 1, "resume": "a-token"}


def test_items_are_wanted_only_while_there_is_room() -> None:
    protocol = stream(credit=2)
    fed = 0
    while protocol.hungry:
        protocol.feed(make_events((fed * 10, 1, 1, 1)))
        fed += 1
        sent(protocol)
    assert fed == 2
    protocol.receive(encode_ack(1, 1, 2))
    assert protocol.hungry
    assert protocol.health.in_flight == 1


def test_a_large_batch_goes_out_in_parts_that_never_exceed_what_may_be_in_flight() -> None:
    protocol = stream(max_message_bytes=20_000)
    events = random_events(3, windows=40, per_window=3000)
    protocol.feed(events)
    received, answered = [], 0
    while True:
        messages = sent(protocol)
        if not messages:
            break
        received += messages
        waiting = received[answered:]
        assert len(waiting) <= MAX_MESSAGES_IN_FLIGHT
        assert len(waiting) == 1 or sum(map(len, waiting)) <= MAX_BYTES_IN_FLIGHT
        assert all(len(message) <= 20_000 for message in messages)
        answered += 1
        protocol.receive(encode_ack(answered, answered, 32))
    assert numbers(received) == list(range(1, len(received) + 1))
    times = [t for message in received for t in decode_packet(decode_message(message).payload).events.t.tolist()]
    assert times == events.t.tolist()


@given(pause_us=st.integers(0, 10**8), by_advance=st.booleans())
def test_a_pause_is_told_in_steps_that_close_few_windows(pause_us: int, by_advance: bool) -> None:
    protocol = stream()
    protocol.feed(make_events((5, 0, 0, 1)))
    later = 5 + pause_us
    protocol.feed(Advance(later) if by_advance else make_events((later, 1, 1, 0)))
    at_us, last = 5, None
    while last != (later, MessageType.ADVANCE if by_advance else MessageType.EVENTS):
        data = protocol.next_message()
        assert data is not None
        message = decode_message(data)
        if message.type is MessageType.ADVANCE:
            (told,) = struct.unpack("<q", message.payload)
        else:
            told = int(decode_packet(message.payload).events.t[-1])
        assert at_us <= told <= at_us + MAX_WINDOWS_PER_MESSAGE * WINDOW_US
        at_us, last = told, (told, message.type)
        protocol.receive(encode_ack(message.sequence, message.sequence, 32))


@given(acked=st.integers(0, 4), answered=st.integers(0, 4), asks_for=st.integers(1, 5), more=st.integers(0, 3))
def test_after_a_break_exactly_what_was_not_acknowledged_is_sent_again(
    acked: int, answered: int, asks_for: int, more: int
) -> None:
    acked = min(acked, answered)
    protocol = stream()
    first = []
    for k in range(4):
        protocol.feed(make_events((k * 10, 1, 1, 1)))
        first += sent(protocol)
    for number in range(1, answered + 1):
        protocol.receive(encode_ack(number, min(acked, number), 32))
    protocol.lost(ConnectionLostError("gone"))
    resumed = welcome(next_sequence=asks_for)
    if asks_for < acked + 1:
        with pytest.raises(ConnectionLostError, match="no longer kept"):
            protocol.welcome(resumed)
        return
    protocol.welcome(resumed)
    assert sent(protocol) == first[acked:]
    assert protocol.reconnects == 1
    for number in range(acked + 1, 5):
        protocol.receive(encode_ack(number, number, 32))
    for k in range(more):
        assert protocol.hungry
        protocol.feed(make_events((100 + k * 10, 1, 1, 1)))
        assert numbers(sent(protocol)) == [5 + k]
        protocol.receive(encode_ack(5 + k, 5 + k, 32))
    protocol.end()
    assert [decode_message(message).type for message in sent(protocol)] == [MessageType.END]
    assert not protocol.finished
    protocol.receive(encode_ack(5 + more, 5 + more, 32))
    assert protocol.finished
    assert protocol.health.unacked_bytes == 0


def test_a_service_that_owes_an_answer_degrades_the_stream_and_then_loses_it() -> None:
    clock = Clock()
    protocol = stream(clock)
    changes: list[StateChange] = []
    protocol.listen(changes.append)
    assert protocol.patience_s is None
    clock.time += 1000
    protocol.tick()
    assert protocol.state is StreamState.STREAMING

    protocol.feed(make_events((0, 1, 1, 1)))
    sent(protocol)
    assert protocol.patience_s == DEGRADED_AFTER_S
    clock.time += DEGRADED_AFTER_S
    assert protocol.patience_s == 0
    protocol.tick()
    assert protocol.state is StreamState.DEGRADED
    assert protocol.patience_s == 10.0 - DEGRADED_AFTER_S
    protocol.receive(encode_ack(0, 0, 32))
    assert protocol.state is StreamState.STREAMING
    clock.time += 10.0
    with pytest.raises(ConnectionLostError, match="no answer within 10 s"):
        protocol.tick()
    protocol.close("enough")
    protocol.close("again")
    assert [change.after for change in changes] == [StreamState.DEGRADED, StreamState.STREAMING, StreamState.CLOSED]
    assert changes[-1].reason == "enough"


def test_which_errors_are_waited_out() -> None:
    fresh = StreamProtocol({}, SENSOR, StreamOptions(), timeouts=Timeouts(), retries=Retries(attempts=3))
    for final in (ConnectError("x"), UnknownModelError("x"), CapacityError("x"), NoAnswerError("x")):
        with pytest.raises(type(final)):
            fresh.lost(final)
    # The service has said when there will be room; but not for so long.
    assert fresh.lost(CapacityError("x", retry_after_s=2.0)) == 2.0
    with pytest.raises(CapacityError):
        fresh.lost(CapacityError("x", retry_after_s=60.0))

    protocol = stream(retries=Retries(attempts=6))
    assert protocol.lost(DrainingError("x", retry_after_s=60.0)) <= 0.1
    for passing in (
        ConnectError("x"),
        NoAnswerError("x"),
        ServerFailureError("x"),
        CapacityError("x", retry_after_s=9),
    ):
        protocol.lost(passing)
    with pytest.raises(UnknownModelError):
        protocol.lost(UnknownModelError("x"))


def test_attempts_count_again_once_something_new_came() -> None:
    protocol = stream(retries=Retries(attempts=2, first_s=0.0))
    protocol.feed(make_events((0, 1, 1, 1)))
    for number in (1, 2):
        for _ in range(2):
            protocol.lost(ConnectionLostError("gone"))
            protocol.welcome(welcome(next_sequence=number))
        sent(protocol)
        protocol.receive(encode_ack(number, number, 32))
        protocol.feed(make_events((number * 10, 1, 1, 1)))
    for _ in range(2):
        protocol.lost(ConnectionLostError("gone"))
    with pytest.raises(ConnectionLostError, match="given up after 2 attempts"):
        protocol.lost(ConnectionLostError("gone"))


def result_of(window: int, t_start: int) -> bytes:
    """A ``RESULT`` of a window."""
    metadata = {
        "window": window,
        "t_start": t_start,
        "t_end": t_start + WINDOW_US,
        "events": 1,
        "windows": 1,
        "skipped": {"gap": 0, "dropped": 0, "late_events": 0, "restart": False},
        "mask": {"encoding": "raw", "width": 64, "height": 48},
        "latency_ms": {"decode": 0, "wait": 0, "compute": 0, "encode": 0, "total": 0},
        "class_share": [1.0],
        "deadline_missed": False,
    }
    return encode_result(window, metadata, bytes(64 * 48))


def events_in(messages: list[bytes]) -> list[int]:
    """Times of the events in messages."""
    packets = [decode_message(message) for message in messages]
    return [
        int(t)
        for message in packets
        if message.type is MessageType.EVENTS
        for t in decode_packet(message.payload).events.t
    ]


@given(answered=st.integers(0, 60), fed=st.integers(1, 60), ended=st.booleans(), asked=st.booleans())
def test_a_lost_session_is_replaced_by_one_that_answers_the_same_windows(
    answered: int, fed: int, ended: bool, asked: bool
) -> None:
    answered = min(answered, fed - 1)
    protocol = StreamProtocol(
        {"type": "hello"},
        SENSOR,
        StreamOptions(lost_session="restart"),
        timeouts=Timeouts(),
        retries=Retries(attempts=2),
    )
    protocol.open()
    protocol.welcome(welcome())
    times = [7 * WINDOW_US + k * WINDOW_US + 3 for k in range(fed)]
    for k, t in enumerate(times):
        protocol.feed(make_events((t, 1, 1, 1)))
        sent(protocol)
        protocol.receive(encode_ack(k + 1, k + 1, 32))
        if 0 < k <= answered:
            assert protocol.receive(result_of(k - 1, (6 + k) * WINDOW_US)) is not None
    if ended:
        protocol.end()
        sent(protocol)
    protocol.lost(ConnectionLostError("gone"))
    protocol.lost(UnknownSessionError("no such session"))
    assert json.loads(protocol.open().hello) == {"type": "hello"}
    protocol.welcome(welcome(session="another"))
    if asked and not ended:
        # It had been asked for before the connection broke, and comes only now.
        times.append(times[-1] + WINDOW_US)
        protocol.feed(make_events((times[-1], 1, 1, 1)))
    messages: list[bytes] = []
    while new := sent(protocol):
        messages += new
        protocol.receive(encode_ack(len(messages), len(messages), 32))
    again = events_in(messages)
    assert numbers(messages) == list(range(1, len(messages) + 1))
    # Everything that is still to be answered, in order, and a little more in front of it.
    assert again == times[len(times) - len(again) :]
    assert len(times) - len(again) <= answered
    assert len(again) - (len(times) - answered) <= WARM_UP_WINDOWS + 2
    assert (decode_message(messages[-1]).type is MessageType.END) == ended
    found = []
    for k, t in enumerate(again):
        result = protocol.receive(result_of(k, t // WINDOW_US * WINDOW_US))
        if result is not None:
            found.append((result.window, result.t_start, result.skipped.restart))
    wanted = [(k, (7 + k) * WINDOW_US, k == answered) for k in range(answered, len(times))]
    assert found == wanted
    assert protocol.restarts == 1


def test_a_lost_session_is_an_error_where_its_windows_could_not_be_found_again() -> None:
    for options, window in (
        (StreamOptions(), {"us": WINDOW_US}),
        (StreamOptions(lost_session="restart", window_events=100), {"count": 100}),
        (StreamOptions(lost_session="restart", reorder_us=50), {"us": WINDOW_US}),
    ):
        protocol = StreamProtocol({}, SENSOR, options, timeouts=Timeouts(), retries=Retries())
        protocol.welcome(welcome(window=window))
        protocol.lost(ConnectionLostError("gone"))
        with pytest.raises(UnknownSessionError):
            protocol.lost(UnknownSessionError("no such session"))


def test_what_cannot_be_sent_ends_the_stream_once_all_before_it_is_answered() -> None:
    protocol = stream()
    protocol.feed(make_events((0, 1, 1, 1)))
    sent(protocol)
    protocol.feed(make_events((10, 64, 1, 1)))
    assert not protocol.hungry
    assert not protocol.finished
    protocol.receive(encode_ack(1, 1, 32))
    assert protocol.finished
    assert isinstance(protocol.fault, InputError)
    assert protocol.fault.fields == ("x",)
    wrong = stream()
    wrong.feed("events")  # type: ignore[arg-type]
    assert wrong.fault is not None
    assert "not str" in wrong.fault.message
    told = stream()
    told.feed(Advance(5))
    assert [decode_message(message).type for message in sent(told)] == [MessageType.ADVANCE]


@pytest.mark.parametrize(
    "data",
    [
        "no json",
        "[]",
        '{"type": "news"}',
        b"",
        b"\0" * 16,
        encode_message(MessageType.EVENTS, 1),
        encode_ack(1, 1, 1)[:-1],
    ],
)
def test_what_is_not_the_protocol_is_an_error(data: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        stream().receive(data)
    fresh = StreamProtocol({}, SENSOR, StreamOptions(), timeouts=Timeouts(), retries=Retries())
    with pytest.raises(ProtocolError):
        fresh.welcome(data)


def test_waits_grow_to_a_limit_and_heed_the_service() -> None:
    retries = Retries(attempts=8, first_s=0.1, longest_s=2.0)
    waits = [retries.wait_s(attempt) for attempt in range(8)]
    for attempt, wait in enumerate(waits):
        full = min(0.1 * 2**attempt, 2.0)
        assert wait is not None
        assert 0.75 * full <= wait <= full
    assert retries.wait_s(8) is None
    assert retries.wait_s(0, CapacityError("x", retry_after_s=1.5)) == 1.5
    assert retries.wait_s(0, CapacityError("x", retry_after_s=2.5)) is None
    for wrong in ({"attempts": -1}, {"first_s": 9.0}, {"first_s": -1.0}):
        with pytest.raises(ValueError, match="must not be negative"):
            Retries(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0"):
        Timeouts(connect=0)
    assert Timeouts.of(3.0) == Timeouts(connect=3.0, read=3.0)
    assert is_passing(ServerFailureError("x", status=503))
    assert not is_passing(ServerFailureError("x", status=500))
    assert not is_passing(ConnectError("x"))
