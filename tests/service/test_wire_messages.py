"""Framing of the WebSocket messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.wire import messages
from service.wire.errors import MessageError
from service.wire.messages import MessageType

SEQUENCES = st.integers(0, 2**64 - 1)


@given(st.sampled_from(MessageType), SEQUENCES, st.binary(max_size=50))
def test_message_round_trip(type: MessageType, sequence: int, payload: bytes) -> None:
    data = messages.encode_message(type, sequence, payload)
    message = messages.decode_message(data)
    assert (message.type, message.sequence, bytes(message.payload)) == (type, sequence, payload)
    assert data == struct.pack("<BBHIQ", type, 0, 0, len(payload), sequence) + payload


@given(st.lists(st.tuples(st.sampled_from(MessageType), SEQUENCES, st.binary(max_size=20)), max_size=5))
def test_messages_one_after_the_other(items: list[tuple[MessageType, int, bytes]]) -> None:
    found = messages.decode_messages(b"".join(messages.encode_message(*item) for item in items))
    assert [(m.type, m.sequence, bytes(m.payload)) for m in found] == items


def test_truncated_at_every_byte() -> None:
    data = messages.encode_result(3, {"window": 3}, b"mask")
    for length in range(len(data)):
        with pytest.raises(MessageError):
            messages.decode_message(data[:length])
        if length:
            with pytest.raises(MessageError):
                messages.decode_messages(data + data[:length])
    with pytest.raises(MessageError):
        messages.decode_message(data + b"\0")


@given(SEQUENCES, st.dictionaries(st.text(), st.integers() | st.text()), st.binary(max_size=50))
def test_result_round_trip(window: int, metadata: dict[str, object], mask: bytes) -> None:
    message = messages.decode_message(messages.encode_result(window, metadata, mask))
    assert (message.type, message.sequence) == (MessageType.RESULT, window)
    assert messages.decode_result(message.payload) == (metadata, mask)
    for length in range(4 + struct.unpack_from("<I", message.payload)[0]):
        with pytest.raises(MessageError):
            messages.decode_result(message.payload[:length])


@given(SEQUENCES, st.integers(-(2**63), 2**63 - 1))
def test_advance_round_trip(sequence: int, until_us: int) -> None:
    message = messages.decode_message(messages.encode_advance(sequence, until_us))
    assert (message.type, message.sequence) == (MessageType.ADVANCE, sequence)
    assert messages.decode_advance(message.payload) == until_us
    for wrong in (bytes(message.payload[:7]), bytes(message.payload) + b"\0"):
        with pytest.raises(MessageError):
            messages.decode_advance(wrong)


@given(SEQUENCES, SEQUENCES, SEQUENCES)
def test_ack_round_trip(sequence: int, acked: int, credit: int) -> None:
    message = messages.decode_message(messages.encode_ack(sequence, acked, credit))
    assert (message.type, message.sequence) == (MessageType.ACK, sequence)
    assert messages.decode_ack(message.payload) == messages.Acknowledgement(acked, credit)


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"{", b"[]", b"{}", b"\xff", b'{"acked": 1}', b'{"credit": 1}'),
        *(b'{"acked": true, "credit": 1}', b'{"acked": "1", "credit": 1}', b'{"acked": 1, "credit": -1}'),
    ],
)
def test_what_is_no_ack(payload: bytes) -> None:
    with pytest.raises(MessageError):
        messages.decode_ack(payload)


@given(SEQUENCES, st.text())
def test_goaway_round_trip(sequence: int, reason: str) -> None:
    message = messages.decode_message(messages.encode_goaway(sequence, reason))
    assert (message.type, message.sequence) == (MessageType.GOAWAY, sequence)
    assert messages.decode_goaway(message.payload) == reason
    for wrong in (b"", b"{}", b'{"reason": 1}'):
        with pytest.raises(MessageError):
            messages.decode_goaway(wrong)


def test_numbers_that_do_not_fit() -> None:
    for sequence in (-1, 2**64):
        with pytest.raises(MessageError):
            messages.encode_reset(sequence)
    with pytest.raises(MessageError):
        messages.encode_advance(1, 2**63)
