"""A stream as a state machine without I/O: items and bytes in, bytes and results out, over any number of connections.

The clients, synchronous or not, move bytes and wait; everything else is decided here: how events and frames become
messages, how many are on the way, what is kept until the service has it for good, which windows are new, and what
becomes of the stream when a connection breaks. The protocol is described in docs/protocol.md.

A client goes through these steps::

    opening = protocol.open()               # connect to the address with opening.session, send opening.hello
    protocol.welcome(text)                  # the service's first answer
    while not protocol.finished:
        if protocol.hungry: protocol.feed(item) or protocol.end()
        data = protocol.next_message()      # send it, if there is one
        result = protocol.receive(data)     # whatever came; a new result, or None
        protocol.tick()                     # nothing came within protocol.patience_s
    if protocol.fault: raise protocol.fault

Any error on the way goes to ``protocol.lost(error)``: it raises what is final, or says how long to wait before the next
``open()``.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from clients.cutting import cut
from clients.errors import (
    CapacityError,
    ClientError,
    ConnectError,
    ConnectionLostError,
    DrainingError,
    FieldError,
    InputError,
    NoAnswerError,
    ProtocolError,
    RequestTimeoutError,
    ServerFailureError,
    UnknownSessionError,
    from_problem,
)
from clients.health import Health, StateChange, StateListener, StreamState
from clients.items import Advance, Flush, Frame, Item
from clients.options import StreamOptions
from clients.pictures import frame_payload
from clients.policies import Retries, Timeouts
from clients.results import Result, SessionInfo, read_result, read_welcome
from models.events import EventBatch, SensorSize
from service.wire.errors import FrameError, PacketError, WireError
from service.wire.events import HEADER as PACKET_HEADER
from service.wire.events import MAX_TIME_US, EventEncoding, check_events, encode_packet
from service.wire.messages import HEADER as MESSAGE_HEADER
from service.wire.messages import (
    PROTOCOL_VERSION,
    Acknowledgement,
    MessageType,
    decode_ack,
    decode_goaway,
    decode_message,
    decode_result,
    encode_advance,
    encode_end,
    encode_events,
    encode_flush,
    encode_message,
)

MAX_MESSAGES_IN_FLIGHT = 4
# A send that waits for room may keep a client from reading. If the service waits in turn for its answers to be read,
# neither would ever go on. So no more is in flight than the socket takes at once, or else a single message: then
# nothing is left to be answered, and the service is reading.
MAX_BYTES_IN_FLIGHT = 192 * 1024
SEND_BUFFER_BYTES = 512 * 1024
"""What a socket must take at once, see above."""
MAX_PACKET_BYTES = 1 << 20
MAX_WINDOWS_PER_MESSAGE = 8
LONGEST_PAUSE_US = 3_600_000_000
"""A pause of the sensor that is stepped over; a longer one is left to the service, which refuses jumps of its clock."""
# The service keeps 4 MiB of answers for those who lost them with a connection; all that is in flight must fit.
ANSWER_BYTES_IN_FLIGHT = 2 << 20
# What the service has answered but not yet acknowledged, since its state store lags behind or is away. Beyond it a
# stream goes on, but can no longer be moved to another server.
MAX_BYTES_UNACKED = 256 << 20
WARM_UP_WINDOWS = 16
"""Windows whose events are kept, so that a new session in place of a lost one begins with nearly the same membranes."""
DEGRADED_AFTER_S = 1.0
"""A service that owes an answer for so long makes a stream degraded."""

_MAX_DT_US = 2**32  # A packet holds times as u32 after its base.
_TALLEST_COMPACT = 0x8000
_METADATA_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Opening:
    """How to open a connection.

    Attributes
    ----------
    session : str
        Id of the session that the hello opens or resumes, for the address: proxies choose the server by it.
    hello : str
        The first message, text.
    """

    session: str
    hello: str


class StreamProtocol:
    """One stream over one session, however often its connection breaks.

    Parameters
    ----------
    hello : mapping
        First message of the session.
    sensor : SensorSize
    options : StreamOptions
    timeouts : Timeouts
    retries : Retries
        Attempts in a row that lead to nothing new, when a connection breaks.
    listener : callable, optional
        Told of every change of state.
    clock : callable
        Seconds, from any beginning.

    Attributes
    ----------
    session : SessionInfo or None
        As it was when it opened.
    reconnects : int
        How often the session was taken up again.
    restarts : int
        How often it was lost, and a new one went on in its place.
    fault : ClientError or None
        Why no more was sent after what is answered now; to be raised when the stream is finished.
    """

    def __init__(
        self,
        hello: Mapping[str, Any],
        sensor: SensorSize,
        options: StreamOptions,
        *,
        timeouts: Timeouts,
        retries: Retries,
        listener: StateListener | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session: SessionInfo | None = None
        self.reconnects = 0
        self.restarts = 0
        self.fault: ClientError | None = None
        self._hello = hello
        self._sensor = sensor
        self._options = options
        self._timeouts = timeouts
        self._retries = retries
        self._listeners = [] if listener is None else [listener]
        self._clock = clock
        self._state = StreamState.CONNECTING
        self._reason = ""
        self._connected = False
        self._attempts = 0
        self._exhausted = False
        self._end_due = False
        self._parts: Iterator[EventBatch | Advance] = iter(())
        # Up to here the session has been told of the sensor's time, in microseconds; it has no windows before an event.
        self._told_us: int | None = None
        self._waiting: deque[Item] = deque()
        # What a new session would be fed with if this one were lost.
        self._kept: deque[Item] = deque()
        self._anew = False
        self._shift: int | None = 0
        self._told_restarts = 0
        self._flushed = False
        self._staged: bytes | None = None
        # Whether it is to be sent only once all before it is answered.
        self._alone = False
        self._numbered = 0
        # Messages from the oldest that is not acknowledged to the newest that has been sent. Those up to ``_answered``
        # have their results; those from ``_next_number`` on go out (again) next.
        self._unacked: dict[int, bytes] = {}
        self._next_window = 0
        self._next_number = 1
        self._answered = 0
        self._credit = 0
        self._heard_at = clock()
        self._result_at: float | None = None
        self._answered_until_us = 0
        self._newest_us: int | None = None
        self._frame_us: int | None = None

    @property
    def max_message_bytes(self) -> int:
        """Size that no message of the service exceeds."""
        return 2 * self._sensor.width * self._sensor.height + _METADATA_BYTES

    @property
    def welcome_s(self) -> float:
        """Longest wait for the answer to a hello, in seconds."""
        return self._timeouts.read

    @property
    def state(self) -> StreamState:
        """Where the stream stands."""
        return self._state

    @property
    def health(self) -> Health:
        """How the stream is doing."""
        lag = None
        if self._result_at is not None and self._newest_us is not None:
            lag = max(self._newest_us - self._answered_until_us, 0)
        return Health(
            self._state,
            self._reason,
            None if self._result_at is None else self._clock() - self._result_at,
            lag,
            len(self._in_flight),
            sum(map(len, list(self._unacked.values()))),
            self.reconnects,
        )

    def listen(self, listener: StateListener) -> None:
        """Have somebody told of every change of state from now on."""
        self._listeners.append(listener)

    # Connections

    def open(self) -> Opening:
        """How to connect, for the first time or again."""
        if self.session is None or self._anew:
            # A name of its own for each attempt: one that failed may have opened a session all the same.
            return Opening(secrets.token_urlsafe(16), json.dumps(self._hello))
        resume = {"type": "hello", "version": PROTOCOL_VERSION, "resume": self.session.resume}
        return Opening(self.session.id, json.dumps(resume))

    def welcome(self, data: str | bytes) -> None:
        """Take the service's answer to the hello.

        Raises
        ------
        ServiceError
            If it refuses.
        ProtocolError
            If it is something else.
        ConnectionLostError
            If another server took over that asks for what is no longer kept.
        """
        if not isinstance(data, str):
            raise ProtocolError("the first message of the service is not the welcome")
        document = _document(data)
        if document.get("type") == "error":
            raise _refusal(document)
        session = read_welcome(document)
        if self.session is None:
            self.session = session
            self._next_window = session.next_window
            self._next_number = self._numbered = session.next_sequence
            self._answered = self._next_number - 1
        elif self._anew:
            self._begin_anew(session)
        else:
            oldest = min(self._unacked, default=self._next_number)
            if session.next_sequence < oldest:
                raise GivenUpError(
                    f"the server that took over asks for message {session.next_sequence}, those before {oldest} are no "
                    "longer kept"
                )
            self.reconnects += 1
            self._next_number, self._answered = oldest, oldest - 1
        self._credit = session.credit
        self._connected = True
        self._heard_at = self._clock()
        self._become(StreamState.STREAMING)

    def lost(self, error: ClientError) -> float:
        """Take note that a connection broke, or that an attempt to open one failed.

        Returns
        -------
        float
            Seconds to wait before the next attempt.

        Raises
        ------
        ClientError
            ``error`` itself if another attempt would be of no use; ConnectionLostError if there have been enough.
        """
        was_connected, self._connected = self._connected, False
        passing: tuple[type[ClientError], ...] = (ConnectionLostError, DrainingError)
        if was_connected:
            # The connection was silent for so long that the service closed it; the session may live on.
            passing += (RequestTimeoutError,)
        if self.session is not None and not was_connected:
            passing += (ConnectError, NoAnswerError, ServerFailureError, CapacityError)
            if isinstance(error, UnknownSessionError) and self._renewable:
                self._anew = True
                passing += (UnknownSessionError,)
        elif self.session is None:
            # There may be room for a new session soon, if the service says so.
            passing += (CapacityError,) if getattr(error, "retry_after_s", None) is not None else ()
        if isinstance(error, GivenUpError) or not isinstance(error, passing):
            raise error
        # Who resumes by way of a proxy may well find another server before this one's time to wait is over.
        wait_s = self._retries.wait_s(self._attempts, error if self.session is None else None)
        if wait_s is None:
            if not isinstance(error, ConnectionLostError | DrainingError) and self.session is None:
                raise error
            raise ConnectionLostError(f"{error.message}; given up after {self._attempts} attempts") from error
        self._attempts += 1
        if self.session is not None:
            self._become(StreamState.DEGRADED, error.message)
        return wait_s

    def close(self, reason: str = "") -> None:
        """Be at the end; harmless when it has been reached."""
        self._become(StreamState.CLOSED, reason)

    # What is sent

    @property
    def hungry(self) -> bool:
        """Whether another item is wanted: there is room for a message, and none is waiting."""
        if self._exhausted or self._staged is not None or not self._room or self._next_number in self._unacked:
            return False
        self._stage()
        return self._staged is None and not self._exhausted

    def feed(self, item: Item) -> None:
        """Take an item; one that cannot be used ends the stream once what came before is answered, see ``fault``."""
        if isinstance(item, EventBatch) and not len(item):
            return
        # It may have been asked for before a connection broke; what is fed again goes first.
        self._waiting.append(item)
        if self._renewable:
            self._kept.append(item)
        self._stage()

    def _load(self, item: Item) -> None:
        try:
            self._require_kind(item)
            if isinstance(item, EventBatch):
                check_events(item, self._sensor, ordered=self._options.ordered)
                self._parts = self._cut(item)
            elif isinstance(item, Advance):
                if not 0 <= item.until_us <= MAX_TIME_US:
                    raise PacketError(f"{item.until_us} µs is no time that a stream can reach", "until_us")
                self._parts = itertools.chain(self._steps_to(item.until_us), (item,))
            elif isinstance(item, Flush):
                self._staged = encode_flush(self._numbered)
                # A window that was cut short cannot be found again by its time.
                self._flushed = True
            else:
                self._staged = self._encode_frame(item)
        except WireError as error:
            self._refuse(error)

    def _require_kind(self, item: object) -> None:
        if isinstance(item, Frame):
            if self._options.frames is None:
                raise FrameError("the stream takes events; StreamOptions(frames=FrameOptions()) opens one of frames")
        elif not isinstance(item, EventBatch | Advance | Flush):
            raise PacketError(
                f"a stream takes batches of events, Advance and Flush, or else frames, not {type(item).__name__}"
            )
        elif self._options.frames is not None:
            raise PacketError(f"the stream takes frames, whose times close its windows, not {type(item).__name__}")

    def end(self) -> None:
        """There are no more items."""
        if not self._exhausted:
            self._exhausted = self._end_due = True
            self._stage()

    def next_message(self) -> bytes | None:
        """The message to send now, if there is one and room for it; it counts as sent."""
        if not self._room:
            return None
        data = self._unacked.get(self._next_number)
        if data is None:
            self._stage()
            data = self._staged
            if data is None:
                return None
        in_flight = self._in_flight
        if in_flight and self._alone and data is self._staged:
            return None
        if in_flight and sum(len(self._unacked[n]) for n in in_flight) + len(data) > MAX_BYTES_IN_FLIGHT:
            return None
        if self._next_number not in self._unacked:
            self._staged, self._alone = None, False
            self._unacked[self._next_number] = data
            self._numbered = self._next_number + 1
            self._forget_oldest()
        if not in_flight:
            self._heard_at = self._clock()
        self._next_number += 1
        return data

    # What comes

    def receive(self, data: str | bytes) -> Result | None:
        """Take a message of the service; the result that it brings, if it is a new one.

        Raises
        ------
        ServiceError
            If the service refuses a message, and with it the connection.
        ProtocolError
            If something else comes, or a window was lost.
        """
        if isinstance(data, str):
            raise _refusal(_document(data))
        self._heard_at = self._clock()
        if self._state is StreamState.DEGRADED and self._connected:
            self._become(StreamState.STREAMING)
        try:
            message = decode_message(data)
            if message.type is MessageType.ACK:
                self._acknowledged(message.sequence, decode_ack(message.payload))
                return None
            if message.type is MessageType.GOAWAY:
                # The service has answered all that it will, and is about to close.
                decode_goaway(message.payload)
                return None
            if message.type is not MessageType.RESULT:
                raise ProtocolError(f"the service sent a message of type {message.type.name}")
            return self._new(read_result(*decode_result(message.payload)))
        except WireError as error:
            raise ProtocolError(f"a message of the service cannot be read: {error}") from error

    @property
    def finished(self) -> bool:
        """Whether everything has been sent and answered."""
        if not self._exhausted or self._in_flight:
            return False
        self._stage()
        sent = self._staged is None and self._next_number - 1 == self._answered
        return self._exhausted and sent and self._next_number not in self._unacked

    @property
    def patience_s(self) -> float | None:
        """How long the service may be silent before ``tick`` should be called; None while it owes nothing."""
        if not self._owed:
            return None
        silence = self._clock() - self._heard_at
        limit = self._timeouts.read
        if self._state is StreamState.STREAMING:
            limit = min(limit, DEGRADED_AFTER_S)
        return max(limit - silence, 0.0)

    def tick(self) -> None:
        """Look at the clock.

        Raises
        ------
        ConnectionLostError
            If the service owes an answer for too long.
        """
        if not self._owed:
            return
        silence = self._clock() - self._heard_at
        if silence >= self._timeouts.read:
            raise ConnectionLostError(f"the service gave no answer within {self._timeouts.read:g} s")
        if silence >= DEGRADED_AFTER_S and self._state is StreamState.STREAMING:
            self._become(StreamState.DEGRADED, f"the service owes an answer for {silence:.1f} s")

    @property
    def _owed(self) -> bool:
        return bool(self._in_flight) or not self._room

    @property
    def _in_flight(self) -> range:
        return range(self._answered + 1, self._next_number)

    @property
    def _room(self) -> bool:
        return len(self._in_flight) < min(MAX_MESSAGES_IN_FLIGHT, self._credit)

    def _new(self, result: Result) -> Result | None:
        if self._shift is None or self._shift:
            result = self._renumbered(result)
        if result.window + result.windows <= self._next_window:
            return None
        first = result.window - result.skipped.gap - result.skipped.dropped
        # A server that took over may have merged or dropped other windows than the one before it.
        if (self._options.lossless and first != self._next_window) or first > self._next_window:
            raise ProtocolError(
                f"window {self._next_window} was lost with a connection: the service no longer keeps its answer"
            )
        self._next_window = result.window + result.windows
        self._attempts = 0
        self._result_at = self._clock()
        self._answered_until_us = result.t_end
        self._forget_answered()
        if self._told_restarts < self.restarts:
            self._told_restarts = self.restarts
            result = replace(result, skipped=replace(result.skipped, restart=True))
        return result

    @property
    def _renewable(self) -> bool:
        """Whether a lost session can be replaced by a new one."""
        timed = self.session is not None and self.session.window_us is not None
        return timed and self._options.lost_session == "restart" and self._options.ordered and not self._flushed

    @property
    def _stride_us(self) -> int:
        """Time between the ends of two windows, in microseconds."""
        assert self.session is not None
        assert self.session.window_us is not None
        return self._options.stride_us or self.session.window_us

    def _begin_anew(self, session: SessionInfo) -> None:
        """Feed a new session with what the lost one had not answered, and with some of what it had."""
        self._anew = False
        self.restarts += 1
        self.session = session
        self._next_number = self._numbered = session.next_sequence
        self._answered = self._next_number - 1
        self._unacked.clear()
        self._staged, self._alone = None, False
        self._frame_us = None
        self._parts = iter(())
        self._told_us = None
        self._waiting = deque(self._kept)
        self._end_due = self._exhausted and self.fault is None
        # Its windows are numbered from its first event on; which ones they are, their times tell.
        self._shift = 0 if self._result_at is None else None

    def _renumbered(self, result: Result) -> Result:
        if self._shift is None:
            after = (result.t_end - self._answered_until_us) // self._stride_us - 1
            self._shift = self._next_window + after - (result.windows - 1) - result.window
            if self._options.frames is not None and after > 0:
                # The frames that it was fed with show nothing that moves: its first event came later.
                skipped = replace(result.skipped, gap=result.skipped.gap + after)
                result = replace(result, skipped=skipped)
        return replace(result, window=result.window + self._shift)

    def _forget_answered(self) -> None:
        """Keep only the events that windows still need, and those before that warm the membranes up."""
        if not self._kept:
            return
        assert self.session is not None
        warm_us = max(WARM_UP_WINDOWS * self._stride_us, self.session.window_us or 0)
        begin = self._answered_until_us - warm_us
        # One event, or frame, before then is kept too: by it the new session begins to count its windows early enough.
        while self._kept:
            later = next((t for t in map(_begins_us, itertools.islice(self._kept, 1, None)) if t is not None), None)
            if _begins_us(self._kept[0]) is not None and (later is None or later > begin):
                break
            self._kept.popleft()
        if self._kept and isinstance(oldest := self._kept[0], EventBatch):
            self._kept[0] = oldest[max(int(oldest.t.searchsorted(begin, side="right")) - 1, 0) :]

    def _acknowledged(self, answered: int, ack: Acknowledgement) -> None:
        """Forget what the service will not lose."""
        if answered > self._answered:
            self._answered = answered
            self._attempts = 0
        self._credit = ack.credit
        for number in list(self._unacked):
            if number > min(ack.acked, self._answered):
                break
            del self._unacked[number]

    def _forget_oldest(self) -> None:
        """Keep no more of what was answered than fits."""
        size = sum(map(len, self._unacked.values()))
        for number in list(self._unacked):
            if size <= MAX_BYTES_UNACKED or number > self._answered:
                break
            size -= len(self._unacked.pop(number))

    def _stage(self) -> None:
        """Encode what comes next: a part of an item, or the end."""
        while self._staged is None:
            part = next(self._parts, None)
            if isinstance(part, Advance):
                self._staged = encode_advance(self._numbered, part.until_us)
                if self._told_us is not None:
                    self._told_us = max(part.until_us, self._told_us)
            elif part is not None:
                self._encode(part)
            elif self._waiting:
                self._load(self._waiting.popleft())
            elif self._end_due:
                self._end_due = False
                self._staged = encode_end(self._numbered)
            else:
                return

    def _encode(self, part: EventBatch) -> None:
        try:
            packet = encode_packet(
                part, self._sensor, seq=self._numbered, encoding=self._encoding, ordered=self._options.ordered
            )
        except PacketError as error:
            self._refuse(error)
            return
        self._staged = encode_events(self._numbered, packet)
        newest_us = int(part.t.max())
        self._reach(newest_us)
        self._told_us = newest_us if self._told_us is None else max(newest_us, self._told_us)

    def _encode_frame(self, frame: Frame) -> bytes:
        assert self.session is not None, "nothing is fed before the welcome"
        payload = frame_payload(frame.t_us, frame.picture, self._sensor)
        size, most = MESSAGE_HEADER.size + len(payload), self.session.max_message_bytes
        if size > most:
            raise FrameError(
                f"a frame of {size} bytes is above the {most} that the service takes: scale it down, or give it as a "
                "PNG, JPEG or WebP file",
                "length",
            )
        if self._frame_us is not None and self.session.window_us is not None:
            # A frame cannot be cut; if it closes many windows, their answers must not crowd out those of others.
            windows = (frame.t_us - self._frame_us) // self._stride_us + 1
            self._alone = windows > self._windows_per_message
        self._frame_us = frame.t_us
        self._reach(frame.t_us)
        return encode_message(MessageType.FRAME, self._numbered, payload)

    def _reach(self, newest_us: int) -> None:
        self._newest_us = newest_us if self._newest_us is None else max(newest_us, self._newest_us)

    def _refuse(self, error: WireError) -> None:
        self._exhausted, self._end_due = True, False
        self._parts = iter(())
        self._waiting.clear()
        fields = [FieldError(error.field, str(error))] if error.field else []
        self.fault = InputError(str(error), errors=fields)

    def _cut(self, batch: EventBatch) -> Iterator[EventBatch | Advance]:
        """The events in parts that may each go in one message, and steps over the pauses between them."""
        session = self.session
        assert session is not None, "nothing is fed before the welcome"
        room = min(session.max_message_bytes, MAX_PACKET_BYTES) - MESSAGE_HEADER.size - PACKET_HEADER.size
        max_events = max(1, room // self._encoding.record.itemsize)
        timed = session.window_us is not None
        span_us = min(self._step_us, _MAX_DT_US) if timed else _MAX_DT_US
        for part in cut(batch, span_us, max_events):
            if self._options.ordered:
                yield from self._steps_to(int(part.t[0]))
            yield part

    def _steps_to(self, until_us: int) -> Iterator[Advance]:
        """Times on the way over a pause, so that no message closes more windows than it may."""
        if self.session is None or self.session.window_us is None:
            return
        if self._told_us is None or until_us - self._told_us > LONGEST_PAUSE_US:
            return
        while until_us - self._told_us > self._step_us:
            yield Advance(self._told_us + self._step_us)

    @property
    def _step_us(self) -> int:
        """Sensor time that one message may go on by, in microseconds."""
        return self._windows_per_message * self._stride_us

    @property
    def _windows_per_message(self) -> int:
        per_message = ANSWER_BYTES_IN_FLIGHT // MAX_MESSAGES_IN_FLIGHT // (self._sensor.width * self._sensor.height)
        return min(max(per_message, 1), MAX_WINDOWS_PER_MESSAGE)

    @property
    def _encoding(self) -> EventEncoding:
        compact = self._options.ordered and self._sensor.height <= _TALLEST_COMPACT
        return EventEncoding.COMPACT if compact else EventEncoding.WIDE

    def _become(self, state: StreamState, reason: str = "") -> None:
        before = self._state
        if before is StreamState.CLOSED:
            return
        self._reason = reason
        if state is before:
            return
        self._state = state
        change = StateChange(before, state, reason)
        for listener in self._listeners:
            listener(change)


class GivenUpError(ConnectionLostError):
    """The stream cannot be taken up again, whoever answers."""


def _begins_us(item: Item) -> int | None:
    """Time of a first event, or of a frame."""
    if isinstance(item, EventBatch):
        return int(item.t[0])
    return item.t_us if isinstance(item, Frame) else None


def _document(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a text of the service is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ProtocolError("a text of the service is not a JSON object")
    return document


def _refusal(document: dict[str, Any]) -> ClientError:
    if document.get("type") != "error":
        return ProtocolError(f"an unexpected text of type {document.get('type')!r} came from the service")
    code = document.get("code")
    return from_problem(document, close_code=code if isinstance(code, int) else None)
