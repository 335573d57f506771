"""Framing of the binary WebSocket messages, and the payloads that are not events or masks."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from service.wire.errors import MessageError

RESULTS_MEDIA_TYPE = "application/vnd.spikeseg.results"
PROTOCOL_VERSION = 1
HEADER = struct.Struct("<BBHIQ")

_TIME = struct.Struct("<q")
_LENGTH = struct.Struct("<I")


class MessageType(IntEnum):
    """What a binary message is; below 128 from the client, above from the server."""

    EVENTS = 1
    ADVANCE = 2
    RESET = 3
    END = 4
    FLUSH = 5
    FRAME = 6
    RESULT = 129
    ACK = 130
    GOAWAY = 131


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What an ``ACK`` says beside the number of the message that it answers.

    Attributes
    ----------
    acked : int
        Number of the last message whose effect the service will not lose; a client keeps those after it.
    credit : int
        Further messages that the service takes up at once.
    """

    acked: int
    credit: int


@dataclass(frozen=True, slots=True)
class Message:
    """One binary message; the payload is a view of the bytes that it was read from.

    Attributes
    ----------
    type : MessageType
    sequence : int
        Message number, or the window's index in a ``RESULT``.
    payload : memoryview
    """

    type: MessageType
    sequence: int
    payload: memoryview


def encode_message(type: MessageType, sequence: int, payload: bytes = b"") -> bytes:
    """Put the 16-byte header in front of a payload."""
    if not 0 <= sequence < 2**64:
        raise MessageError(f"sequence {sequence} does not fit 64 bits", "sequence")
    return HEADER.pack(type, 0, 0, len(payload), sequence) + payload


def decode_message(data: bytes | memoryview) -> Message:
    """Read exactly one message.

    Raises
    ------
    MessageError
        If the header is cut short, its reserved bits are set, the type is unknown, or ``length`` is not what follows.
    """
    message, end = _decode_at(memoryview(data), 0)
    if end != len(data):
        raise MessageError(f"{len(data) - end} bytes follow the message's payload", "length")
    return message


def decode_messages(data: bytes | memoryview) -> list[Message]:
    """Read messages that stand one after the other, as in a body of ``application/vnd.spikeseg.results``.

    Raises
    ------
    MessageError
        As ``decode_message``.
    """
    view = memoryview(data)
    messages: list[Message] = []
    offset = 0
    while offset < len(view):
        message, offset = _decode_at(view, offset)
        messages.append(message)
    return messages


def encode_events(sequence: int, packet: bytes) -> bytes:
    """An ``EVENTS`` message around one event packet."""
    return encode_message(MessageType.EVENTS, sequence, packet)


def encode_advance(sequence: int, until_us: int) -> bytes:
    """An ``ADVANCE`` message: every event before ``until_us`` has been sent."""
    if not -(2**63) <= until_us < 2**63:
        raise MessageError(f"{until_us} µs does not fit 64 bits", "t")
    return encode_message(MessageType.ADVANCE, sequence, _TIME.pack(until_us))


def decode_advance(payload: bytes | memoryview) -> int:
    """The time in microseconds that an ``ADVANCE`` message carries."""
    if len(payload) != _TIME.size:
        raise MessageError(f"ADVANCE carries {_TIME.size} bytes, not {len(payload)}", "length")
    return int(_TIME.unpack(payload)[0])


def encode_reset(sequence: int) -> bytes:
    """A ``RESET`` message."""
    return encode_message(MessageType.RESET, sequence)


def encode_end(sequence: int) -> bytes:
    """An ``END`` message."""
    return encode_message(MessageType.END, sequence)


def encode_flush(sequence: int) -> bytes:
    """A ``FLUSH`` message."""
    return encode_message(MessageType.FLUSH, sequence)


def encode_ack(sequence: int, acked: int, credit: int) -> bytes:
    """An ``ACK``: all results up to the client message with this number have been sent."""
    return encode_message(MessageType.ACK, sequence, _json({"acked": acked, "credit": credit}))


def decode_ack(payload: bytes | memoryview) -> Acknowledgement:
    """What an ``ACK`` carries.

    Raises
    ------
    MessageError
        If a number is missing or negative.
    """
    document = _object(payload)
    numbers = {}
    for field in ("acked", "credit"):
        value = document.get(field)
        if type(value) is not int or value < 0:
            raise MessageError(f"an ACK carries {field}, a number", field)
        numbers[field] = value
    return Acknowledgement(**numbers)


def encode_goaway(sequence: int, reason: str) -> bytes:
    """A ``GOAWAY``: the server is about to close; messages up to this number are kept for whoever takes over."""
    return encode_message(MessageType.GOAWAY, sequence, _json({"reason": reason}))


def decode_goaway(payload: bytes | memoryview) -> str:
    """Why the server goes."""
    reason = _object(payload).get("reason")
    if not isinstance(reason, str):
        raise MessageError("a GOAWAY carries its reason", "reason")
    return reason


def encode_result(window: int, metadata: dict[str, Any], mask: bytes) -> bytes:
    """A ``RESULT`` message: the metadata of a window as JSON, then its encoded mask."""
    text = _json(metadata)
    return encode_message(MessageType.RESULT, window, _LENGTH.pack(len(text)) + text + mask)


def decode_result(payload: bytes | memoryview) -> tuple[dict[str, Any], bytes]:
    """Metadata and encoded mask of a ``RESULT`` message.

    Raises
    ------
    MessageError
        If the payload is cut short or its metadata is no JSON object.
    """
    view = memoryview(payload)
    if len(view) < _LENGTH.size:
        raise MessageError(f"a RESULT begins with {_LENGTH.size} bytes of length, only {len(view)} are there", "length")
    end = _LENGTH.size + int(_LENGTH.unpack_from(view)[0])
    if end > len(view):
        raise MessageError("the RESULT is cut short within its metadata", "length")
    return _object(view[_LENGTH.size : end]), bytes(view[end:])


def _decode_at(view: memoryview, start: int) -> tuple[Message, int]:
    left = len(view) - start
    if left < HEADER.size:
        raise MessageError(f"a message begins with {HEADER.size} bytes of header, only {left} are there")
    type_id, flags, reserved, length, sequence = HEADER.unpack_from(view, start)
    try:
        type = MessageType(type_id)
    except ValueError:
        raise MessageError(f"message type {type_id} is unknown", "type") from None
    if flags or reserved:
        raise MessageError(
            f"flags and reserved must be 0, not {flags} and {reserved}", "flags" if flags else "reserved"
        )
    begin = start + HEADER.size
    if begin + length > len(view):
        raise MessageError(f"the header says {length} bytes of payload, {len(view) - begin} are there", "length")
    return Message(type, sequence, view[begin : begin + length]), begin + length


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _object(payload: bytes | memoryview) -> dict[str, Any]:
    try:
        document = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise MessageError(f"the payload is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise MessageError("the payload is not a JSON object")
    return document
