"""Event packets and JSON events to event arrays and back."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from models.events import EventBatch, SensorSize
from service.wire.errors import PacketError

MEDIA_TYPE = "application/vnd.spikeseg.events"
MAGIC = b"SEV1"
HEADER = struct.Struct("<4sHHQqHHI")
MAX_TIME_US = 2**53 - 1
"""Latest time of an event: the largest integer that every JSON reader can hold (the year 2255, from the Unix epoch)."""

_POLARITY_BIT = 0x8000
_COMPACT = np.dtype([("dt", "<u4"), ("x", "<u2"), ("y", "<u2")])
_WIDE = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])
_JSON_FIELDS = ("t", "x", "y", "p")


class EventEncoding(IntEnum):
    """How the records of a packet are laid out."""

    COMPACT = 0
    """8 bytes: time after the packet's base as u32, x, y with the polarity in bit 15."""
    WIDE = 1
    """13 bytes: whole time as i64, x, y, polarity as u8."""

    @property
    def record(self) -> np.dtype[np.void]:
        """Layout of one record."""
        return _COMPACT if self is EventEncoding.COMPACT else _WIDE


@dataclass(frozen=True, slots=True)
class EventPacket:
    """One decoded packet: its events are inside ``sensor`` and ordered by time."""

    seq: int
    sensor: SensorSize
    events: EventBatch


def decode_packet(data: bytes | memoryview, *, ordered: bool = True) -> EventPacket:
    """Read exactly one packet.

    Parameters
    ----------
    data : bytes
        A header of 32 bytes and its records, nothing after them.
    ordered : bool
        Whether times must not run back.

    Returns
    -------
    EventPacket
        Its arrays own their memory.

    Raises
    ------
    PacketError
        If the bytes are no such packet, an event lies outside the packet's sensor, or a time is negative, later than
        ``MAX_TIME_US`` or earlier than the one before it. The message gives the first event that is to blame.
    """
    packet, end = _decode_at(memoryview(data), 0, ordered)
    if end != len(data):
        raise PacketError(f"{len(data) - end} bytes follow the packet's last record", "count")
    return packet


def decode_packets(data: bytes | memoryview, *, most: int | None = None, ordered: bool = True) -> list[EventPacket]:
    """Read packets that stand one after the other.

    Parameters
    ----------
    data : bytes
    most : int, optional
        Most packets; each takes a while to read, even an empty one.
    ordered : bool
        Whether times must not run back, within a packet or from one to the next.

    Returns
    -------
    list of EventPacket
        Empty for no bytes.

    Raises
    ------
    PacketError
        As ``decode_packet``; also if there are more than ``most`` packets, two packets are of different sensors, or one
        begins before the end of the last.
    """
    view = memoryview(data)
    packets: list[EventPacket] = []
    offset, latest = 0, -1
    while offset < len(view):
        if len(packets) == most:
            raise PacketError(f"there are more than {most} packets; send larger ones, or fewer at once")
        try:
            packet, offset = _decode_at(view, offset, ordered)
        except PacketError as error:
            raise PacketError(f"packet {len(packets)}: {error}", error.field) from None
        if packets and packet.sensor != packets[0].sensor:
            raise PacketError(
                f"packet {len(packets)} is of a {packet.sensor} sensor, those before it of {packets[0].sensor}", "width"
            )
        if ordered and len(packet.events):
            first = int(packet.events.t[0])
            if first < latest:
                raise PacketError(f"packet {len(packets)} begins at {first} µs, before {latest} µs was reached", "t")
            latest = int(packet.events.t[-1])
        packets.append(packet)
    return packets


def encode_packet(
    events: EventBatch,
    sensor: SensorSize,
    *,
    seq: int = 0,
    encoding: EventEncoding = EventEncoding.COMPACT,
    time_base: int | None = None,
    ordered: bool = True,
) -> bytes:
    """Write one packet.

    Parameters
    ----------
    events : EventBatch
        Ordered by time.
    sensor : SensorSize
    seq : int
        The producer's packet counter.
    encoding : EventEncoding
    time_base : int, optional
        Microseconds; the earliest event's time if not given.
    ordered : bool
        Whether times must not run back.

    Raises
    ------
    PacketError
        If the events break a rule of the packet, or their times do not fit ``encoding``.
    """
    if time_base is None:
        time_base = int(events.t.min()) if len(events) else 0
    _check_header(seq, time_base, sensor, encoding)
    check_events(events, sensor, ordered=ordered)
    records = np.empty(len(events), encoding.record)
    records["x"] = events.x
    if encoding is EventEncoding.COMPACT:
        if len(events) and not 0 <= int(events.t.min()) - time_base <= int(events.t.max()) - time_base < 2**32:
            raise PacketError(f"the events' times do not lie within 2**32 µs after the time base {time_base} µs", "t")
        records["dt"] = events.t - time_base
        records["y"] = events.y | (events.p.astype(np.uint16) << 15)
    else:
        records["t"], records["y"], records["p"] = events.t, events.y, events.p
    header = HEADER.pack(MAGIC, encoding, 0, seq, time_base, sensor.width, sensor.height, len(events))
    return header + records.tobytes()


def encode_packets(
    events: EventBatch, sensor: SensorSize, *, packet_us: int = 10_000, max_events: int = 65_536, first_seq: int = 0
) -> Iterator[bytes]:
    """Cut a recording into compact packets.

    Parameters
    ----------
    events : EventBatch
        Ordered by time.
    sensor : SensorSize
    packet_us : int
        Packets begin anew at multiples of this many microseconds; at most 2**32.
    max_events : int
        Most events in a packet.
    first_seq : int
        Counter of the first packet.

    Yields
    ------
    bytes
        One packet each; packets without events are left out.

    Raises
    ------
    PacketError
        As ``encode_packet``.
    """
    check_events(events, sensor)
    if not len(events):
        return
    starts = np.flatnonzero(np.diff(events.t // packet_us, prepend=-1))
    ends = np.append(starts[1:], len(events))
    seq = first_seq
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        for cut in range(start, end, max_events):
            yield encode_packet(events[cut : min(cut + max_events, end)], sensor, seq=seq)
            seq += 1


def events_from_json(data: bytes | str, *, ordered: bool = True) -> EventBatch:
    """Read ``{"t": […], "x": […], "y": […], "p": […]}``, arrays of integers of equal length.

    Raises
    ------
    PacketError
        If it is not that, a value is no integer (neither is ``true``, ``NaN`` or ``1.0``) or out of range, or a time
        is earlier than the one before it. Coordinates are not held against a sensor here: see ``check_events``.
    """
    try:
        document = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PacketError(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise PacketError('the body must be an object {"t": […], "x": […], "y": […], "p": […]}')
    unknown = sorted(set(document) - set(_JSON_FIELDS))
    if unknown:
        field = unknown[0][:40]
        raise PacketError(f"unknown field {field!r}; the fields are t, x, y and p", field)
    columns = {name: _json_column(document, name) for name in _JSON_FIELDS}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise PacketError(f"t, x, y and p must be of equal length, got {list(lengths.values())}", "t")
    if len(columns["p"]):
        _refuse_outside(1, "p", columns["p"], "is neither 0 (OFF) nor 1 (ON)")
    _check_times(columns["t"], ordered)
    return EventBatch(
        columns["t"], columns["x"].astype(np.uint16), columns["y"].astype(np.uint16), columns["p"].astype(np.uint8)
    )


def events_to_json(events: EventBatch) -> str:
    """Write events as ``events_from_json`` reads them."""
    columns = {"t": events.t.tolist(), "x": events.x.tolist(), "y": events.y.tolist(), "p": events.p.tolist()}
    return json.dumps(columns, separators=(",", ":"))


def check_events(events: EventBatch, sensor: SensorSize, *, ordered: bool = True) -> None:
    """Hold events against a sensor and against the clock; times may run back if they need not be ``ordered``.

    Raises
    ------
    PacketError
        For the first event that lies outside ``sensor``, whose time is out of range or runs back, or whose polarity
        is neither 0 nor 1; or if a column is not of integers.
    """
    if not len(events):
        return
    _refuse_outside(sensor.width - 1, "x", events.x, f"is outside the {sensor} sensor")
    _refuse_outside(sensor.height - 1, "y", events.y, f"is outside the {sensor} sensor")
    _refuse_outside(1, "p", events.p, "is neither 0 (OFF) nor 1 (ON)")
    _require_integers("t", events.t)
    _check_times(events.t, ordered)


def _decode_at(view: memoryview, start: int, ordered: bool) -> tuple[EventPacket, int]:
    """The packet that begins at ``start``, and where it ends."""
    left = len(view) - start
    if left < HEADER.size:
        raise PacketError(f"a packet begins with {HEADER.size} bytes of header, only {left} are there")
    magic, encoding_id, reserved, seq, time_base, width, height, count = HEADER.unpack_from(view, start)
    if magic != MAGIC:
        raise PacketError(f"a packet begins with {MAGIC!r}, not {magic!r}", "magic")
    try:
        encoding = EventEncoding(encoding_id)
    except ValueError:
        raise PacketError(f"encoding {encoding_id} is unknown; 0 and 1 are known", "encoding") from None
    if reserved:
        raise PacketError(f"the reserved field must be 0, not {reserved}", "reserved")
    sensor = SensorSize(width, height)
    _check_header(seq, time_base, sensor, encoding)
    begin = start + HEADER.size
    end = begin + count * encoding.record.itemsize
    if end > len(view):
        raise PacketError(
            f"the packet is cut short: {count} records take {end - begin} bytes, {len(view) - begin} are there", "count"
        )
    records = np.frombuffer(view[begin:end], encoding.record)
    events = _compact_events(records, time_base) if encoding is EventEncoding.COMPACT else _wide_events(records)
    check_events(events, sensor, ordered=ordered)
    return EventPacket(seq, sensor, events), end


def _compact_events(records: NDArray[np.void], time_base: int) -> EventBatch:
    return EventBatch(
        records["dt"].astype(np.int64) + time_base,
        records["x"].astype(np.uint16),
        records["y"] & np.uint16(_POLARITY_BIT - 1),
        (records["y"] >> 15).astype(np.uint8),
    )


def _wide_events(records: NDArray[np.void]) -> EventBatch:
    return EventBatch(
        records["t"].astype(np.int64),
        records["x"].astype(np.uint16),
        records["y"].astype(np.uint16),
        records["p"].astype(np.uint8),
    )


def _check_header(seq: int, time_base: int, sensor: SensorSize, encoding: EventEncoding) -> None:
    if not 0 <= seq < 2**64:
        raise PacketError(f"the packet counter {seq} does not fit 64 bits", "seq")
    if not 0 <= time_base <= MAX_TIME_US:
        raise PacketError(f"the time base {time_base} µs is not between 0 and {MAX_TIME_US}", "time_base")
    tallest = _POLARITY_BIT if encoding is EventEncoding.COMPACT else 0xFFFF
    for field, size, most in (("width", sensor.width, 0xFFFF), ("height", sensor.height, tallest)):
        if not 1 <= size <= most:
            raise PacketError(f"the sensor's {field} {size} is not between 1 and {most}", field)


def _check_times(t: NDArray[np.int64], ordered: bool = True) -> None:
    if not len(t):
        return
    if ordered:
        back = t[1:] < t[:-1]
        if back.any():
            at = int(back.argmax()) + 1
            raise PacketError(f"t[{at}] = {t[at]} µs is earlier than t[{at - 1}] = {t[at - 1]} µs", "t")
    # If they are ordered, the ends tell of all.
    lowest, highest = (t[0], t[-1]) if ordered else (t.min(), t.max())
    if lowest < 0:
        at = int((t < 0).argmax())
        raise PacketError(f"t[{at}] = {t[at]} µs is negative", "t")
    if highest > MAX_TIME_US:
        at = int((t > MAX_TIME_US).argmax())
        raise PacketError(f"t[{at}] = {t[at]} µs is later than {MAX_TIME_US} µs", "t")


def _refuse_outside(most: int, field: str, values: NDArray[Any], why: str) -> None:
    """Blame the first value below 0 or above ``most``; the usual case, that there is none, is one pass over them."""
    _require_integers(field, values)
    # What a program has made itself may be signed; cut down to fewer bits, -1 would be another number.
    if int(values.max()) > most or (values.dtype.kind == "i" and int(values.min()) < 0):
        at = int(((values > most) | (values < 0)).argmax())
        raise PacketError(f"{field}[{at}] = {values[at]} {why}", field)


def _require_integers(field: str, values: NDArray[Any]) -> None:
    if values.dtype.kind not in "iub":
        raise PacketError(f"{field} is of {values.dtype}, not of integers", field)


def _json_column(document: dict[str, Any], name: str) -> NDArray[np.int64]:
    values = document.get(name)
    if not isinstance(values, list):
        problem = "is missing" if name not in document else "must be an array of integers"
        raise PacketError(f"{name} {problem}", name)
    # bool passes for int almost everywhere, so types are compared, not asked.
    if not set(map(type, values)) <= {int}:
        at = next(i for i, value in enumerate(values) if type(value) is not int)
        raise PacketError(f"{name}[{at}] = {json.dumps(values[at])[:40]} is not an integer", name)
    most = MAX_TIME_US if name == "t" else 0xFFFF
    if values and not (min(values) >= 0 and max(values) <= most):
        at = next(i for i, value in enumerate(values) if not 0 <= value <= most)
        raise PacketError(f"{name}[{at}] = {str(values[at])[:40]} is not between 0 and {most}", name)
    return np.array(values, np.int64)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
