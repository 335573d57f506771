"""Events in, results out over one session, however often its connection breaks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from clients.connection import Connection
from clients.cutting import cut
from clients.errors import (
    CapacityError,
    ClientError,
    ConnectError,
    ConnectionLostError,
    DrainingError,
    FieldError,
    InputError,
    ProtocolError,
    RequestTimeoutError,
    ServerFailureError,
    SessionInUseError,
)
from clients.options import StreamOptions
from clients.results import Result, SessionInfo, read_result
from models.events import EventBatch, SensorSize
from service.wire.errors import PacketError, WireError
from service.wire.events import HEADER as PACKET_HEADER
from service.wire.events import EventEncoding, check_events, encode_packet
from service.wire.messages import HEADER as MESSAGE_HEADER
from service.wire.messages import (
    PROTOCOL_VERSION,
    Acknowledgement,
    Message,
    MessageType,
    decode_ack,
    decode_goaway,
    decode_result,
    encode_end,
    encode_events,
)

MAX_MESSAGES_IN_FLIGHT = 4
# A send that waits for room keeps the library from reading. If the service waits in turn for its answers to be read,
# neither would ever go on. So no more is in flight than the socket takes at once, or else a single message: then
# nothing is left to be answered, and the service is reading.
MAX_BYTES_IN_FLIGHT = 192 * 1024
MAX_PACKET_BYTES = 1 << 20
MAX_WINDOWS_PER_MESSAGE = 8
# The service keeps 4 MiB of answers for those who lost them with a connection; all that is in flight must fit.
ANSWER_BYTES_IN_FLIGHT = 2 << 20
# What the service has answered but not yet acknowledged, since its state store lags behind or is away. Beyond it a
# stream goes on, but can no longer be moved to another server.
MAX_BYTES_UNACKED = 256 << 20
RETRY_DELAYS_S = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)

_MAX_DT_US = 2**32  # A packet holds times as u32 after its base.
_TALLEST_COMPACT = 0x8000


class ResultStream(Iterator[Result]):
    """Results of a stream of events, in the order of the windows, each exactly once.

    An iterator and a context manager; :meth:`clients.client.Client.stream` makes it. The session is opened at once.
    Batches are taken from their iterator, in the thread that asks for results, only as fast as the service answers.
    When all have been sent, the open window is answered and the session ends. A stream that is left before its end
    must be closed, so that the service need not keep its session.

    If the connection breaks or the server goes, the session is taken up again, there or by another server, and what
    was not acknowledged is sent again; after six attempts in a row that lead to nothing new, ``ConnectionLostError`` is
    raised. If the service refuses a batch,
    the results of what came before it are given first; then the error is raised, and the session is over.

    Attributes
    ----------
    session : SessionInfo
        As it was when it opened.
    reconnects : int
        How often the session was taken up again.
    """

    def __init__(
        self,
        connect: Callable[[str, Mapping[str, Any]], Connection],
        hello: Mapping[str, Any],
        batches: Iterable[EventBatch],
        sensor: SensorSize,
        *,
        timeout: float,
        discard: Callable[[str], None],
        options: StreamOptions,
    ) -> None:
        self.reconnects = 0
        self._options = options
        self._connect = connect
        self._timeout = timeout
        self._discard = discard
        self._attempts = 0
        self._closed = False
        self._exhausted = False
        self._fault: ClientError | None = None
        self._staged: tuple[int, bytes] | None = None
        # Messages from the oldest that is not acknowledged to the newest that has been sent. Those up to ``_answered``
        # have their results; those from ``_next_number`` on go out (again) next.
        self._unacked: dict[int, bytes] = {}
        self._connection = self._open(hello)
        self.session: SessionInfo = self._connection.session
        self._next_window = self.session.next_window
        self._next_number = self.session.next_sequence
        self._answered = self._next_number - 1
        self._credit = self.session.credit
        self._outgoing = self._messages(batches, sensor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> Result:
        if self._closed:
            raise StopIteration
        try:
            while not self._finished:
                message = self._step()
                if message is not None and (result := self._take(message)) is not None:
                    return result
            if self._fault is not None:
                raise self._fault
        except SessionInUseError:
            # It belongs to the other connection now.
            self._closed = True
            self._connection.drop()
            raise
        except BaseException:
            self.close()
            raise
        self._closed = True
        self._connection.close()
        raise StopIteration

    @property
    def closed(self) -> bool:
        """Whether the stream is at its end, failed, or was left."""
        return self._closed

    def close(self) -> None:
        """Leave the stream; the session ends, and its open window stays unanswered. Harmless when it is over."""
        if self._closed:
            return
        self._closed = True
        self._connection.drop()
        self._discard(self.session.id)

    @property
    def _finished(self) -> bool:
        sent = self._staged is None and self._next_number - 1 == self._answered
        return self._exhausted and sent and self._next_number not in self._unacked

    def _step(self) -> Message | None:
        """Read a message, or send one if there is none to read; None if none was read."""
        try:
            message = self._connection.receive(0)
            if message is not None:
                return message
            if self._send_next():
                return None
            if self._finished:
                return None
            message = self._connection.receive(self._timeout)
            if message is None:
                raise ConnectionLostError(f"the service gave no answer within {self._timeout:g} s")
            return message
        except (ConnectionLostError, DrainingError, RequestTimeoutError) as lost:
            self._reconnect(lost)
            return None

    def _take(self, message: Message) -> Result | None:
        """The result that a message brings, if it is a new one."""
        try:
            if message.type is MessageType.ACK:
                self._acknowledged(message.sequence, decode_ack(message.payload))
                return None
            if message.type is MessageType.GOAWAY:
                # The service has answered all that it will, and is about to close.
                decode_goaway(message.payload)
                return None
            if message.type is not MessageType.RESULT:
                raise ProtocolError(f"the service sent a message of type {message.type.name}")
            result = read_result(*decode_result(message.payload))
        except WireError as error:
            raise ProtocolError(f"a message of the service cannot be read: {error}") from error
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
        return result

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

    def _send_next(self) -> bool:
        """Send one more message, if there is one and room for it."""
        in_flight = range(self._answered + 1, self._next_number)
        if len(in_flight) >= min(MAX_MESSAGES_IN_FLIGHT, self._credit):
            return False
        data = self._unacked.get(self._next_number)
        if data is None:
            if self._staged is None:
                self._stage()
            if self._staged is None:
                return False
            data = self._staged[1]
        if in_flight and sum(len(self._unacked[n]) for n in in_flight) + len(data) > MAX_BYTES_IN_FLIGHT:
            return False
        if self._next_number not in self._unacked:
            self._staged = None
            self._unacked[self._next_number] = data
            self._forget_oldest()
        self._next_number += 1
        self._connection.send(data)
        return True

    def _forget_oldest(self) -> None:
        """Keep no more of what was answered than fits."""
        size = sum(map(len, self._unacked.values()))
        for number in list(self._unacked):
            if size <= MAX_BYTES_UNACKED or number > self._answered:
                break
            size -= len(self._unacked.pop(number))

    def _stage(self) -> None:
        if self._exhausted:
            return
        try:
            self._staged = next(self._outgoing)
        except StopIteration:
            self._exhausted = True
        except PacketError as error:
            # Kept until what was sent before is answered.
            self._exhausted = True
            fields = [FieldError(error.field, str(error))] if error.field else []
            self._fault = InputError(str(error), errors=fields)

    def _messages(self, batches: Iterable[EventBatch], sensor: SensorSize) -> Iterator[tuple[int, bytes]]:
        """Numbered messages: the events, cut to what may go at once, then the end."""
        number = self.session.next_sequence
        ordered = self._options.ordered
        encoding = EventEncoding.COMPACT if ordered and sensor.height <= _TALLEST_COMPACT else EventEncoding.WIDE
        room = min(self.session.max_message_bytes, MAX_PACKET_BYTES) - MESSAGE_HEADER.size - PACKET_HEADER.size
        max_events = max(1, room // encoding.record.itemsize)
        per_message = ANSWER_BYTES_IN_FLIGHT // MAX_MESSAGES_IN_FLIGHT // (sensor.width * sensor.height)
        windows = min(max(per_message, 1), MAX_WINDOWS_PER_MESSAGE)
        span_us = _MAX_DT_US if self.session.window_us is None else min(windows * self._stride_us, _MAX_DT_US)
        for batch in batches:
            check_events(batch, sensor, ordered=ordered)
            for part in cut(batch, span_us, max_events):
                packet = encode_packet(part, sensor, seq=number, encoding=encoding, ordered=ordered)
                yield number, encode_events(number, packet)
                number += 1
        yield number, encode_end(number)

    @property
    def _stride_us(self) -> int:
        """Time between the ends of two windows, in microseconds."""
        assert self.session.window_us is not None
        return self._options.stride_us or self.session.window_us

    def _open(self, hello: Mapping[str, Any]) -> Connection:
        """A first connection; one that breaks before the welcome is tried again."""
        while True:
            try:
                # A name of its own for each attempt: one that failed may have opened a session all the same.
                return self._connect(secrets.token_urlsafe(16), hello)
            except (ConnectionLostError, DrainingError) as lost:
                self._pause(lost)

    def _reconnect(self, lost: ClientError) -> None:
        """Take the session up again and send again what has not been acknowledged."""
        self._connection.drop()
        hello = {"type": "hello", "version": PROTOCOL_VERSION, "resume": self.session.resume}
        while True:
            self._pause(lost)
            try:
                self._connection = self._connect(self.session.id, hello)
                break
            except (ConnectionLostError, ConnectError, ServerFailureError, CapacityError) as error:
                lost = error
        self.reconnects += 1
        oldest = min(self._unacked, default=self._next_number)
        if self._connection.session.next_sequence < oldest:
            raise ConnectionLostError(
                f"the server that took over asks for message {self._connection.session.next_sequence}, those before "
                f"{oldest} are no longer kept"
            )
        self._next_number, self._answered = oldest, oldest - 1
        self._credit = self._connection.session.credit

    def _pause(self, lost: ClientError) -> None:
        if self._attempts == len(RETRY_DELAYS_S):
            raise ConnectionLostError(f"{lost.message}; given up after {self._attempts} attempts") from lost
        time.sleep(RETRY_DELAYS_S[self._attempts])
        self._attempts += 1
