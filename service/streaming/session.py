"""One client's stream: where its windows stand, its membranes, and the message that it takes next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models.events import EventBatch, SensorSize
from models.runtime.state import State
from service.errors import FieldError, SensorMismatchError, SequenceError, SessionInUseError, UnknownSessionError
from service.metrics import ServiceMetrics
from service.streaming.answers import Answer, AnswerFormat, Arrival, build_answer
from service.streaming.engine import Engine
from service.streaming.windows import Window, WindowStream

if TYPE_CHECKING:
    from models.runtime.model import SegmentationModel


@dataclass(frozen=True, slots=True)
class Events:
    """Events of a sensor; if ``until_us`` is given, every event before that time has been sent with them."""

    events: EventBatch
    sensor: SensorSize
    until_us: int | None = None


@dataclass(frozen=True, slots=True)
class Advance:
    """Every event before ``until_us`` has been sent."""

    until_us: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Membranes to rest, windows from 0 again."""


@dataclass(frozen=True, slots=True)
class End:
    """Close the open window and end the session."""


Command = Events | Advance | Reset | End


@dataclass(frozen=True, slots=True)
class Progress:
    """Everything that a message changes, replaced as a whole once all of its windows are answered.

    Attributes
    ----------
    stream : WindowStream
    membranes : State
    next_sequence : int
        Number of the message that comes next.
    ended : bool
        Whether the last message was the stream's end.
    """

    stream: WindowStream
    membranes: State
    next_sequence: int = 1
    ended: bool = False


class Attachment:
    """A connection's hold on a session.

    Attributes
    ----------
    since : int
        Number of the first message that this connection, and none before it, can have had applied.
    evicted : bool
        Whether another connection has asked for the session.
    released : asyncio.Event
        Set once the connection has let go.
    """

    def __init__(self, evict: Callable[[], object], since: int) -> None:
        self.since = since
        self.evicted = False
        self.released = asyncio.Event()
        self._evict = evict

    def evict(self) -> None:
        """Ask the connection to let go; ``released`` tells when it has."""
        self.evicted = True
        self._evict()


class Session:
    """A stream of one sensor through one model.

    Parameters
    ----------
    id, secret : str
        The public name, and what a client shows to take the session up again.
    model : SegmentationModel
    sensor : SensorSize
    start : Progress
        Where the session begins: no events, membranes at rest.
    form : AnswerFormat
        How answers are given unless a request asks for something else.
    engine : Engine
    metrics : ServiceMetrics
    replay_bytes : int
        Answers kept for clients that lost them.
    """

    def __init__(
        self,
        id: str,
        secret: str,
        model: SegmentationModel,
        sensor: SensorSize,
        start: Progress,
        form: AnswerFormat,
        *,
        engine: Engine,
        metrics: ServiceMetrics,
        replay_bytes: int,
    ) -> None:
        self.id = id
        self.secret = secret
        self.model = model
        self.sensor = sensor
        self.form = form
        self.last_used = time.monotonic()
        self._progress = start
        self._engine = engine
        self._metrics = metrics
        self._replay_bytes = replay_bytes
        self._recent: dict[int, tuple[Answer, ...]] = {}
        self._lock = asyncio.Lock()
        self._attachment: Attachment | None = None
        self._closed = False

    @property
    def resume_token(self) -> str:
        """What a client shows to take the session up again."""
        return f"{self.id}.{self.secret}"

    @property
    def window_us(self) -> int:
        """Length of a window in microseconds."""
        return self._progress.stream.window_us

    @property
    def next_sequence(self) -> int:
        """Number of the message that comes next."""
        return self._progress.next_sequence

    @property
    def next_window(self) -> int:
        """Number of the window that is answered next."""
        return self._progress.stream.index

    @property
    def ended(self) -> bool:
        """Whether the client has ended the stream."""
        return self._progress.ended

    @property
    def state_bytes(self) -> int:
        """Bytes that the membranes and pending events take."""
        return self._progress.membranes.nbytes + self._progress.stream.nbytes

    @property
    def attached(self) -> bool:
        """Whether a connection holds the session."""
        return self._attachment is not None

    @property
    def busy(self) -> bool:
        """Whether a connection holds the session, or a message is under way."""
        return self.attached or self._lock.locked()

    async def attach(self, evict: Callable[[], object]) -> Attachment:
        """Hold the session for a connection; whichever held it before is made to let go.

        A client whose connection broke without a word must not wait until the server finds out.

        Parameters
        ----------
        evict : callable
            Called when another connection takes the session up; must lead to a ``detach`` soon.
        """
        while True:
            while (previous := self._attachment) is not None:
                previous.evict()
                await previous.released.wait()
            # A request without a connection may be under way; what it changes must show in ``next_sequence``.
            async with self._lock:
                if self._attachment is None:
                    self._attachment = Attachment(evict, self.next_sequence)
                    return self._attachment

    def detach(self, attachment: Attachment) -> None:
        """Let go of the session; it can be resumed."""
        if self._attachment is attachment:
            self._attachment = None
        self.touch()
        attachment.released.set()

    def close(self) -> None:
        """Take no more messages."""
        self._closed = True

    def touch(self) -> None:
        """Take note that somebody still cares for the session."""
        self.last_used = time.monotonic()

    def require_free(self) -> None:
        """Raise SessionInUseError if a connection holds the session."""
        if self.attached:
            raise SessionInUseError("a WebSocket connection holds this session; close it first")

    def earlier(self, sequence: int, holder: Attachment | None = None) -> tuple[Answer, ...] | None:
        """What to answer to a message that has been taken before.

        Returns
        -------
        tuple of Answer or None
            None if the number is the next one. Otherwise the message's answers, as far as they are still kept and were
            not given to ``holder`` before.

        Raises
        ------
        SequenceError
            If the number skips.
        """
        expected = self.next_sequence
        if not 1 <= sequence <= expected:
            message = f"message number {sequence} skips; the next one is {expected}"
            raise SequenceError(message, [FieldError("sequence", message)])
        if sequence == expected:
            return None
        if holder is not None and sequence >= holder.since:
            return ()
        return self._recent.get(sequence, ())

    async def process(
        self,
        command: Command,
        form: AnswerFormat,
        arrival: Arrival,
        *,
        sequence: int | None = None,
        holder: Attachment | None = None,
    ) -> AsyncGenerator[Answer, None]:
        """Take one message; yield the answer to each window that it closes, as soon as it is computed.

        The session moves on only after the last answer has been taken. Close the iterator before, or cancel it, and
        the session is as if the message had never come. Messages are taken one at a time, in the order of the calls.

        Parameters
        ----------
        command : Command
        form : AnswerFormat
        arrival : Arrival
        sequence : int, optional
            The message's number; without it, the message is the next one. For a number that was seen before the
            answers are those of ``earlier``.
        holder : Attachment, optional
            Of the connection that calls.

        Raises
        ------
        SequenceError
            If ``sequence`` skips.
        UnusableInputError
            If the message cannot be used.
        UnknownSessionError
            If the session has ended.
        SessionInUseError
            If a connection holds the session that is not the caller's.
        """
        async with self._lock:
            if self._attachment is not holder:
                self.require_free()
            before = self._progress
            if sequence is not None and (answers := self.earlier(sequence, holder)) is not None:
                for answer in answers:
                    yield answer
                return
            if before.ended or self._closed:
                raise UnknownSessionError("the session has ended")
            self.touch()
            windows, after = await self._engine.offload(self._plan, command, before)
            membranes = after.membranes
            kept: list[Answer] = []
            kept_bytes = 0
            for window in windows:
                timed = await self._engine.segment(self.model, membranes, window.events, self.sensor)
                membranes = timed.segmentation.state
                self._metrics.observe_window(
                    self.model.name, len(window.events), timed.segmentation.activity, timed.wait_s, timed.compute_s
                )
                answer = await self._engine.offload(
                    build_answer,
                    window,
                    timed,
                    self.model.classes,
                    form,
                    acked=before.next_sequence - 1,
                    arrival=arrival,
                )
                self._metrics.observe_encode(answer.metadata["latency_ms"]["encode"] / 1e3)
                kept_bytes += answer.nbytes
                if kept_bytes <= self._replay_bytes:
                    kept.append(answer)
                yield answer
            # No await between here and the end: state, window number and message number change together.
            # An ended session is kept for its answers only, and beyond max_sessions: it must not hold membranes.
            self._progress = replace(after, membranes=State({}) if after.ended else membranes)
            if kept_bytes <= self._replay_bytes:
                self._keep(before.next_sequence, tuple(kept))
            self.touch()

    def _plan(self, command: Command, before: Progress) -> tuple[list[Window], Progress]:
        """The windows that a message closes, and where the session stands after it, but for the membranes."""
        stream, membranes, ended = before.stream, before.membranes, False
        windows: list[Window] = []
        match command:
            case Events(events, sensor, until_us):
                if sensor != self.sensor:
                    message = f"the packet is of a {sensor} sensor, the session of {self.sensor}"
                    raise SensorMismatchError(message, [FieldError("width", message), FieldError("height", message)])
                windows, stream = stream.push(events)
                if until_us is not None:
                    more, stream = stream.advance(until_us, already=len(windows))
                    windows += more
            case Advance(until_us):
                windows, stream = stream.advance(until_us)
            case Reset():
                stream, membranes = stream.restart(), self.model.initial_state(self.sensor)
            case End():
                windows, stream = stream.finish()
                ended = True
        return windows, Progress(stream, membranes, before.next_sequence + 1, ended)

    def _keep(self, sequence: int, answers: tuple[Answer, ...]) -> None:
        """Keep a message's answers, and forget the oldest ones that no longer fit."""
        if not answers:
            return
        self._recent[sequence] = answers
        total = sum(answer.nbytes for kept in self._recent.values() for answer in kept)
        while total > self._replay_bytes:
            oldest = self._recent.pop(next(iter(self._recent)))
            total -= sum(answer.nbytes for answer in oldest)
