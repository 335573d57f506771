"""One client's stream: where its windows stand, its membranes, and the message that it takes next."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from models.events import EventBatch, SensorSize
from models.runtime.model import WindowInput
from models.runtime.state import State
from service import audit
from service.errors import (
    BacklogError,
    FieldError,
    SensorMismatchError,
    SequenceError,
    ServiceError,
    SessionInUseError,
    SessionMovedError,
    UnknownSessionError,
    UnusableInputError,
)
from service.metrics import ServiceMetrics
from service.observability import tracing
from service.streaming.answers import Answer, AnswerFormat, Arrival, build_answer
from service.streaming.backlog import Backlog, Policy, drop
from service.streaming.camera import Camera
from service.streaming.checkpoints import Checkpoint
from service.streaming.engine import Engine
from service.streaming.keeper import Keeper, Keeping
from service.streaming.scheduler import Scheduler, TimedSegmentation
from service.streaming.snapshots import Progress, Recent, SessionSpec, session_checkpoint
from service.streaming.state_store import FencedError
from service.streaming.windowing import EventStream, Window
from service.wire.frames import Frame

if TYPE_CHECKING:
    from models.runtime.model import SegmentationModel


@dataclass(frozen=True, slots=True)
class Events:
    """Events of a sensor.

    If ``until_us`` is given, every event before that time has been sent with them; with ``flush``, the open window is
    then answered as well.
    """

    events: EventBatch
    sensor: SensorSize
    until_us: int | None = None
    flush: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """A frame of the session's camera: its events, and every event up to its time, have come."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Advance:
    """Every event before ``until_us`` has been sent."""

    until_us: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Answer the open window now, if it holds events."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Membranes to rest, windows from 0 again."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Go on from a snapshot: its membranes and its place in the stream."""

    stream: EventStream
    membranes: State | None
    camera: Camera | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Close the open window and end the session."""


Command = Events | Look | Advance | Flush | Reset | Restore | End


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all sessions work with.

    Attributes
    ----------
    engine : Engine
    scheduler : Scheduler
    metrics : ServiceMetrics
    keeping : Keeping
    replay_bytes : int
        Answers that each session keeps for clients that lost them.
    max_waiting : int
        Most requests of one session that wait for their turn.
    require_memory : callable
        Raises StateMemoryError if there is no room for so many more bytes of state.
    """

    engine: Engine
    scheduler: Scheduler
    metrics: ServiceMetrics
    keeping: Keeping
    replay_bytes: int
    max_waiting: int
    require_memory: Callable[[int], object]


class Attachment:
    """A connection's hold on a session.

    Attributes
    ----------
    since : int
        Number of the first message that this connection, and none before it, can have had applied.
    evicted : ServiceError or None
        Why the connection must let go, if it must.
    released : asyncio.Event
        Set once the connection has let go.
    """

    def __init__(self, evict: Callable[[], object], since: int) -> None:
        self.since = since
        self.evicted: ServiceError | None = None
        self.released = asyncio.Event()
        self._evict = evict

    def evict(self, why: ServiceError) -> None:
        """Ask the connection to let go; ``released`` tells when it has."""
        self.evicted = why
        self._evict()


class Session:
    """A stream of one sensor through one model.

    Parameters
    ----------
    spec : SessionSpec
    model : SegmentationModel
    progress : Progress
        Where the session begins, or goes on.
    place : Workplace
    epoch : int
        The session's in the state store; 0 if the store does not have it.
    recent : mapping, optional
        Answers to the latest messages, by message number.
    """

    def __init__(
        self,
        spec: SessionSpec,
        model: SegmentationModel,
        progress: Progress,
        place: Workplace,
        *,
        epoch: int = 0,
        recent: Recent | None = None,
    ) -> None:
        self.spec = spec
        self.model = model
        self.last_used = time.monotonic()
        # Between servers only the wall clock tells how old a session is; here it may jump.
        self._began = self.last_used - max(0.0, time.time() - spec.opened_at)
        self._progress = progress
        self._place = place
        self._recent: dict[int, tuple[Answer, ...]] = dict(recent or {})
        self._unkept_bytes = 0
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._attachment: Attachment | None = None
        self._closed = self._moved = False
        acked = self._last_sequence() if epoch else 0
        self._counts = place.metrics.of(model)
        self.keeper = Keeper(spec.id, epoch, acked, place.keeping, self._last_sequence, self._checkpoint)
        self.keeper.on_fenced = self._lose

    @property
    def id(self) -> str:
        """Its public name."""
        return self.spec.id

    @property
    def age_s(self) -> float:
        """How long ago it was opened, in seconds."""
        return time.monotonic() - self._began

    @property
    def sensor(self) -> SensorSize:
        """The sensor whose events it takes."""
        return self.spec.sensor

    @property
    def form(self) -> AnswerFormat:
        """How answers are given unless a request asks for something else."""
        return self.spec.form

    @property
    def backlog(self) -> Backlog:
        """How it deals with windows that wait."""
        return self.spec.backlog

    @property
    def next_sequence(self) -> int:
        """Number of the message that comes next."""
        return self._progress.next_sequence

    @property
    def next_window(self) -> int:
        """Number of the window that is answered next."""
        return self._progress.stream.index

    @property
    def stream(self) -> EventStream:
        """Where its windows stand."""
        return self._progress.stream

    @property
    def acked(self) -> int:
        """Number of the last message whose effect is in the state store."""
        return self.keeper.acked

    @property
    def ended(self) -> bool:
        """Whether the client has ended the stream."""
        return self._progress.ended

    @property
    def closed(self) -> bool:
        """Whether it takes no more messages: it was removed, or another replica has it."""
        return self._closed

    @property
    def state_bytes(self) -> int:
        """Bytes that the membranes and held events take."""
        return self._progress.nbytes

    @property
    def attached(self) -> bool:
        """Whether a connection holds the session."""
        return self._attachment is not None

    @property
    def busy(self) -> bool:
        """Whether a connection holds the session, or a message is under way."""
        return self.attached or self._lock.locked()

    def is_secret(self, secret: str) -> bool:
        """Whether this is what the session is taken up again with."""
        return secrets.compare_digest(self.spec.secret_digest, digest(secret))

    async def attach(self, evict: Callable[[], object]) -> Attachment:
        """Hold the session for a connection; whichever held it before is made to let go.

        A client whose connection broke without a word must not wait until the server finds out.

        Parameters
        ----------
        evict : callable
            Called when the connection must let go; must lead to a ``detach`` soon.
        """
        while True:
            while (previous := self._attachment) is not None:
                previous.evict(SessionInUseError("another connection has taken up this session"))
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
            self.keeper.on_acked = lambda: None
        self.touch()
        attachment.released.set()

    def expel(self, why: ServiceError) -> None:
        """Make the connection that holds the session, if any, let go."""
        if self._attachment is not None:
            self._attachment.evict(why)

    def close(self, *, moved: bool = False) -> None:
        """Take no more messages, and hold no membranes any more; ``moved`` if it goes on elsewhere."""
        self._closed = True
        self._moved = moved
        if not self._lock.locked():
            self._progress = self._progress.let_go()

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
        commands: Sequence[Command],
        form: AnswerFormat,
        arrival: Arrival,
        *,
        sequence: int | None = None,
        holder: Attachment | None = None,
    ) -> AsyncGenerator[Answer, None]:
        """Take messages; yield the answer to each window that they close, as soon as it is computed.

        The session moves on only after the last answer has been taken. Close the iterator before, or cancel it, and
        the session is as if the messages had never come. They are taken in the order of the calls; the windows of
        messages that come in one call wait together, as the session's backlog has it.

        Parameters
        ----------
        commands : sequence of Command
            One; or several ``Events`` and ``Advance``.
        form : AnswerFormat
        arrival : Arrival
            Of the last of them.
        sequence : int, optional
            The first message's number; without it, it is the next one. For a number that was seen before the answers
            are those of ``earlier``.
        holder : Attachment, optional
            Of the connection that calls.

        Raises
        ------
        BacklogError
            If too many calls wait already.
        SequenceError
            If ``sequence`` skips.
        UnusableInputError
            If a message cannot be used.
        StateMemoryError
            If there is no room for the events of the open window.
        UnknownSessionError
            If the session has ended.
        SessionInUseError
            If a connection holds the session that is not the caller's, or another replica has it.
        """
        if self._waiting >= self._place.max_waiting:
            raise BacklogError(
                f"{self._waiting} requests of this session wait already; send the next when one is answered",
                headers={"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        try:
            if self._attachment is not holder:
                self.require_free()
            before = self._progress
            if sequence is not None and (answers := self.earlier(sequence, holder)) is not None:
                for answer in answers:
                    yield answer
                return
            if self._moved:
                raise SessionMovedError("the session was handed over; ask again", headers={"Retry-After": "0"})
            if before.ended or self._closed:
                raise UnknownSessionError("the session has ended")
            self.touch()
            if self._is_light(commands, before):
                windows, after = self._plan(commands, before)
            else:
                windows, after = await self._place.engine.offload(self._plan, commands, before)
            if (growth := after.nbytes - before.nbytes) > 0:
                self._place.require_memory(growth)
            kept: list[Answer] = []
            kept_bytes = 0
            membranes = after.membranes
            at_rest = after.at_rest
            queue = deque(windows)
            since = arrival.at
            while queue:
                window = queue.popleft()
                due = self._due(arrival)
                if queue and self._is_too_late(due):
                    queue[0] = drop([window], queue[0])
                    continue
                answer, membranes = await self._answer(window, membranes, form, arrival, due)
                at_rest = False
                kept_bytes += answer.nbytes
                if kept_bytes <= self._place.replay_bytes:
                    kept.append(answer)
                self._counts.observe_latency(time.perf_counter() - since)
                yield answer
                since = time.perf_counter()
            # No await between here and the end: state, window number and message number change together.
            # An ended session is kept for its answers only, and beyond max_sessions: it must not hold membranes.
            self._progress = replace(after, membranes=membranes, at_rest=at_rest)
            if after.ended:
                self._progress = self._progress.let_go()
                if self.id:
                    audit.record(audit.Event.ENDED, key=self.spec.owner, session=self.id, reason="by its client")
            if kept_bytes <= self._place.replay_bytes:
                self._keep(after.next_sequence - 1, tuple(kept))
            self.touch()
            self.keeper.moved()
            if self._unkept_bytes > self._place.replay_bytes // 2 or after.ended:
                self.keeper.hurry()
        finally:
            self._lock.release()

    async def keep(self) -> None:
        """Have everything up to now in the state store, if the store can be used.

        Raises
        ------
        SessionMovedError
            If another replica has taken up the session.
        """
        try:
            await self.keeper.keep()
        except FencedError:
            raise SessionMovedError(
                "another replica has taken up this session; ask again", headers={"Retry-After": "0"}
            ) from None

    def snapshot(self, *, public: bool = False) -> Callable[[], Checkpoint]:
        """How to make a checkpoint of the present moment; cheap, what it gives may be called on another thread.

        Parameters
        ----------
        public : bool
            Without what is between this server and the client alone: the secret, whose it is, and the kept answers.
        """
        if public:
            return partial(session_checkpoint, replace(self.spec, secret_digest=b"", owner=""), self._progress, {})
        return partial(session_checkpoint, self.spec, self._progress, dict(self._recent))

    def _last_sequence(self) -> int:
        return self._progress.next_sequence - 1

    async def _checkpoint(self) -> Checkpoint:
        make = self.snapshot()
        self._unkept_bytes = 0
        return await self._place.engine.offload(make)

    def _lose(self) -> None:
        """Another replica has the session."""
        self.close(moved=True)
        self.expel(SessionMovedError("another replica has taken up this session"))

    def _is_too_late(self, due: float | None) -> bool:
        """Whether a window that is due then is not worth computing any more."""
        return self.backlog.policy is Policy.DROP_OLDEST and due is not None and time.perf_counter() > due

    def _due(self, arrival: Arrival) -> float | None:
        return None if self.backlog.deadline_s is None else arrival.at + self.backlog.deadline_s

    async def _answer(
        self, window: Window, membranes: State, form: AnswerFormat, arrival: Arrival, due: float | None
    ) -> tuple[Answer, State]:
        """The answer to one window, and the membranes after it."""
        idle = window.gap + window.dropped
        if window.restart:
            membranes, idle = await self._place.engine.offload(self.model.initial_state, self.sensor), 0
        asked = time.perf_counter()

        def encode(timed: TimedSegmentation) -> tuple[TimedSegmentation, Answer]:
            missed = due is not None and asked + timed.wait_s > due
            if missed:
                self._place.metrics.count_missed_deadline()
            return timed, build_answer(
                window, timed, self.model.classes, form, acked=self.acked, arrival=arrival, deadline_missed=missed
            )

        timed, answer = await self._place.scheduler.segment(
            self.model, WindowInput(membranes, window.events, self.sensor, idle), encode, due=due
        )
        self._counts.observe_window(len(window.events), timed.segmentation.activity, timed.wait_s, timed.compute_s)
        self._counts.observe_skipped(
            gap=window.gap, dropped=window.dropped, merged=window.count - 1, late_events=window.late
        )
        self._counts.observe_filtered(window.filtered)
        self._counts.observe_answer(answer.metadata)
        if tracing.is_tracing():
            self._trace(window, timed, asked, answer)
        return answer, timed.segmentation.state

    def _trace(self, window: Window, timed: TimedSegmentation, asked: float, answer: Answer) -> None:
        """Tell of a window that has been answered just now."""
        begun = asked + timed.wait_s
        encoded = begun + timed.compute_s
        tracing.record(
            {
                "wait": (asked, begun),
                "compute": (begun, encoded),
                "encode": (encoded, encoded + answer.metadata["latency_ms"]["encode"] / 1e3),
            },
            "window",
            {
                "spikeseg.session": self.id,
                "spikeseg.model": self.model.name,
                "spikeseg.window": window.index,
                "spikeseg.events": len(window.events),
                "spikeseg.batch.rows": timed.rows,
                "spikeseg.sops": timed.segmentation.activity.sops,
            },
        )

    def _is_light(self, commands: Sequence[Command], before: Progress) -> bool:
        """Whether planning them takes less time than a change of threads."""
        if not all(isinstance(command, Events | Advance | Flush | End) for command in commands):
            return False
        return before.stream.is_light(sum(len(c.events) for c in commands if isinstance(c, Events)))

    def _plan(self, commands: Sequence[Command], before: Progress) -> tuple[list[Window], Progress]:
        """The windows that are to be computed, and where the session stands after them, but for the membranes."""
        stream, membranes, at_rest, ended = before.stream, before.membranes, before.at_rest, False
        camera = before.camera
        windows: list[Window] = []
        for command in commands:
            closed: list[Window] = []
            self._require_taken(command)
            match command:
                case Events():
                    closed, stream = self._take_events(command, stream)
                case Look(frame):
                    closed, stream, camera = self._take_frame(frame, stream, camera)
                case Advance(until_us):
                    closed, stream = stream.advance(until_us)
                case Flush():
                    closed, stream = stream.flush()
                case Reset():
                    stream, membranes, at_rest = stream.restart(), self.model.initial_state(self.sensor), True
                    camera = camera.at_rest() if camera is not None else None
                case Restore(stream, restored, camera):
                    at_rest = restored is None
                    membranes = self.model.initial_state(self.sensor) if restored is None else restored
                case End():
                    closed, stream = stream.flush()
                    ended = True
            windows += closed
        after = Progress(stream, membranes, before.next_sequence + len(commands), ended, at_rest, camera)
        return self.backlog.relieve(windows), after

    def _require_taken(self, command: Command) -> None:
        """Raise UnusableInputError if the session is one of frames and this is of events, or the other way round."""
        if self.spec.camera is None and isinstance(command, Look):
            raise UnusableInputError("the session takes events; open one with the option frames to send frames")
        if self.spec.camera is not None and isinstance(command, Events | Advance | Flush):
            raise UnusableInputError("the session takes frames, whose times close its windows; send no events to it")

    def _take_frame(
        self, frame: Frame, stream: EventStream, camera: Camera | None
    ) -> tuple[list[Window], EventStream, Camera]:
        assert camera is not None
        self._require_sensor(frame.size, "frame")
        if camera.misses(frame.t_us, stream.limits.events) or stream.misses(frame.t_us + 1):
            camera = camera.wake(frame)
            return *stream.pass_over(frame.t_us + 1), camera
        events, camera = camera.see(frame)
        windows, stream = stream.push(events)
        more, stream = stream.advance(frame.t_us + 1, already=len(windows))
        return windows + more, stream, camera

    def _require_sensor(self, found: SensorSize, what: str) -> None:
        if found != self.sensor:
            message = f"the {what} is of a {found} sensor, the session of {self.sensor}"
            raise SensorMismatchError(message, [FieldError("width", message), FieldError("height", message)])

    def _take_events(self, command: Events, stream: EventStream) -> tuple[list[Window], EventStream]:
        self._require_sensor(command.sensor, "packet")
        windows, stream = stream.push(command.events)
        if command.until_us is not None:
            more, stream = stream.advance(command.until_us, already=len(windows))
            windows += more
        if command.flush:
            more, stream = stream.flush()
            windows += more
        return windows, stream

    def _keep(self, sequence: int, answers: tuple[Answer, ...]) -> None:
        """Keep a message's answers, and forget the oldest ones that no longer fit."""
        if not answers:
            return
        self._recent[sequence] = answers
        self._unkept_bytes += sum(answer.nbytes for answer in answers)
        total = sum(answer.nbytes for kept in self._recent.values() for answer in kept)
        while total > self._place.replay_bytes:
            oldest = self._recent.pop(next(iter(self._recent)))
            total -= sum(answer.nbytes for answer in oldest)


def digest(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()
