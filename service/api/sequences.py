"""Sequences of inference requests: sessions under the ids that clients of the Open Inference Protocol choose.

What starts, ends and idles is as in Triton's sequence batcher. A sequence's requests are taken one at a time, in the
order in which their bodies have arrived; those without a sequence are answered from rest and leave nothing behind.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace

from starlette.requests import ClientDisconnect

from models.events import SensorSize
from models.runtime.model import SegmentationModel
from service.api.inference_request import InferRequest, named_as_parameters, read_request
from service.api.inference_tensors import events_of, most_windows
from service.api.lines import Line, Lines
from service.api.opening import open_session, stream_config
from service.api.schemas import SessionFields, limit_errors
from service.api.services import Services
from service.errors import (
    FieldError,
    SequenceStartError,
    SessionExistsError,
    TooLargeError,
    UnknownSessionError,
    UnusableInputError,
)
from service.streaming.answers import Answer, AnswerFormat, Arrival
from service.streaming.backlog import Backlog
from service.streaming.session import End, Events, Session
from service.streaming.snapshots import Progress, SessionSpec
from service.streaming.state_store import MemoryStateStore, StateStoreError
from service.streaming.windowing import EventStream
from service.wire.masks import MaskEncoding

_FORM = AnswerFormat(MaskEncoding.RAW, True)


@dataclass(frozen=True, slots=True)
class Inference:
    """A request, and what it is answered with.

    Attributes
    ----------
    request : InferRequest
    answers : list of Answer
        Of the windows that it completed.
    sensor : SensorSize
    next_sequence : int or None
        Number of the sequence's next request; None if it is part of none.
    """

    request: InferRequest
    answers: list[Answer]
    sensor: SensorSize
    next_sequence: int | None = None


class Sequences:
    """The sequences of a server.

    Parameters
    ----------
    services : Services
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self._arrivals = Line()
        self._turns = Lines(services.settings.queue_messages)
        # Nothing of a single request is kept.
        keeping = replace(services.keeping, store=MemoryStateStore())
        self._nowhere = replace(services.workplace, keeping=keeping, replay_bytes=0)

    async def infer(
        self,
        model: SegmentationModel,
        body: bytes,
        header_length: str | None,
        arrived: float,
        is_gone: Callable[[], Awaitable[bool]],
        owner: str = "",
    ) -> Inference:
        """Answer a request.

        Parameters
        ----------
        model : SegmentationModel
        body : bytes
        header_length : str, optional
            What the header says of the length of the JSON in it.
        arrived : float
            When it arrived, on ``time.perf_counter``.
        is_gone : callable
            Whether the client has left; a request without a sequence is then given up.
        owner : str
            The caller's key, which its sequences belong to: those of two keys never meet.

        Raises
        ------
        ServiceError, WireError
            If the request cannot be answered; nothing of it has been applied then, though a sequence that it was to
            replace may have ended.
        """
        settings, offload = self.services.settings, self.services.engine.offload
        with ExitStack() as leaving:
            # Large bodies take longer to read, and what comes behind them must not overtake them.
            with self._arrivals.join() as place:
                begun = time.perf_counter()
                request = await offload(read_request, body, header_length, settings.max_json_bytes)
                arrival = Arrival(arrived, time.perf_counter() - begun)
                await place.reached()
                name = request.parameters.sequence_id
                if name in (0, ""):
                    turn = None
                else:
                    id = session_id(model.name, name, owner)
                    turn = leaving.enter_context(self._turns.join(id))
            if turn is not None:
                await turn.reached()
            # While this server is about to stop, another one is to be asked.
            self.services.require_open()
            if turn is None:
                return await self._infer_once(model, request, arrival, is_gone)
            if request.parameters.sequence_start:
                return await self._begin(model, request, arrival, id, owner)
            return await self._go_on(model, request, arrival, id, owner)

    async def _infer_once(
        self, model: SegmentationModel, request: InferRequest, arrival: Arrival, is_gone: Callable[[], Awaitable[bool]]
    ) -> Inference:
        """Answer from rest, by a session that nobody else knows."""
        services = self.services
        fields = self._fields(model, request)
        sensor, config = fields.sensor.size, stream_config(fields, model.window_us)
        spec = SessionSpec(
            "", b"", model.name, model.fingerprint, sensor, config, _FORM, Backlog(), opened_at=time.time()
        )
        membranes = await services.engine.offload(model.initial_state, sensor)
        progress = Progress(EventStream.start(config, services.window_limits), membranes)
        session = Session(spec, model, progress, self._nowhere)
        try:
            command = await self._command(request, arrival, sensor, ordered=config.ordered)
            # The end lets go of the membranes.
            answers = await self._collect(session.process([command, End()], _FORM, arrival), session, request, is_gone)
        finally:
            session.close()
        return Inference(request, answers, sensor)

    async def _begin(
        self, model: SegmentationModel, request: InferRequest, arrival: Arrival, id: str, owner: str
    ) -> Inference:
        """Begin a sequence; the one that runs under its id ends."""
        services = self.services
        fields = self._fields(model, request)
        # Read before anything is changed, so that a request that cannot be used leaves all as it is.
        ordered = stream_config(fields, model.window_us).ordered
        command = await self._command(request, arrival, fields.sensor.size, ordered=ordered)
        await self._end(id)
        session, _ = await open_session(services, fields, id, owner=owner)
        try:
            return await self._take(session, command, request, arrival)
        except BaseException:
            # The client knows of no sequence that has begun.
            await services.registry.remove(session, why="its first request has failed")
            raise

    async def _go_on(
        self, model: SegmentationModel, request: InferRequest, arrival: Arrival, id: str, owner: str
    ) -> Inference:
        """Take a sequence's next request, or one that was taken before."""
        session = await self._find(id, owner)
        number = request.parameters.sequence_number
        if session is None or (session.ended and (number is None or number >= session.next_sequence)):
            raise _not_started(model, request)
        if session.form != _FORM or session.spec.model != model.name:
            raise SessionExistsError("this sequence's id is that of a session that was not begun as a sequence")
        request.require_same(session.sensor, session.spec.config)
        command = await self._command(request, arrival, session.sensor, ordered=session.stream.ordered)
        try:
            return await self._take(session, command, request, arrival)
        except UnknownSessionError:
            raise _not_started(model, request) from None

    async def _take(self, session: Session, command: Events, request: InferRequest, arrival: Arrival) -> Inference:
        """The answers to a request, once its effect is in the state store."""
        number = request.parameters.sequence_number
        answers = await self._collect(session.process([command], _FORM, arrival, sequence=number), session, request)
        if request.parameters.sequence_end:
            # A message of its own: the answers are kept under the number of the events.
            end = None if number is None else number + 1
            await self._collect(session.process([End()], _FORM, arrival, sequence=end), session, request)
        await session.keep()
        return Inference(request, answers, session.sensor, session.next_sequence)

    def _fields(self, model: SegmentationModel, request: InferRequest) -> SessionFields:
        """The session to open, within the server's limits."""
        fields = request.session_fields(model.name)
        errors = named_as_parameters(limit_errors(self.services.settings, fields.sensor.size, fields))
        if errors:
            raise UnusableInputError(errors[0].message, errors)
        return fields

    async def _command(self, request: InferRequest, arrival: Arrival, sensor: SensorSize, *, ordered: bool) -> Events:
        """What a request asks of its session."""
        begun = time.perf_counter()
        events = await self.services.engine.offload(events_of, request.events, sensor, ordered=ordered)
        self.services.metrics.observe_decode(arrival.decode_s + time.perf_counter() - begun)
        return Events(events, sensor, request.until_us, request.parameters.sequence_end)

    async def _collect(
        self,
        answers: AsyncGenerator[Answer, None],
        session: Session,
        request: InferRequest,
        is_gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> list[Answer]:
        """The answers, as long as they are not too large to be given; otherwise the session is left as it was."""
        settings = self.services.settings
        most = most_windows(
            request.outputs,
            session.sensor,
            session.model.classes,
            max_bytes=settings.max_body_bytes,
            max_json_bytes=settings.max_json_bytes,
        )
        found: list[Answer] = []
        async with aclosing(answers):
            async for answer in answers:
                if len(found) == most:
                    raise TooLargeError(
                        f"the answer would hold more than {most} windows, too many for these outputs: send less at "
                        "once, ask for fewer outputs, or for binary data",
                    )
                if is_gone is not None and await is_gone():
                    raise ClientDisconnect
                found.append(answer)
        return found

    async def _find(self, id: str, owner: str) -> Session | None:
        """The session of a sequence, also one that has ended a while ago."""
        registry = self.services.registry
        try:
            return await registry.get(id, owner)
        except UnknownSessionError:
            session = registry.here(id)
            return session if session is not None and session.spec.owner == owner else None

    async def _end(self, id: str) -> None:
        """End what runs under an id, here or on another server."""
        registry, keeping = self.services.registry, self.services.keeping
        if (session := registry.here(id)) is not None:
            session.require_free()
            await registry.remove(session, why="its sequence has begun anew")
        if not keeping.store.durable:
            return
        try:
            if (claim := await keeping.store.claim(id)) is not None:
                await keeping.store.delete(id, claim.epoch)
        except StateStoreError as error:
            keeping.health.failed(error)


def session_id(model: str, sequence: int | str, owner: str = "") -> str:
    """The session of an owner's sequence; the number 1 and the text "1" are two sequences."""
    text = f"{model}\0{type(sequence).__name__}\0{sequence}" + (f"\0{owner}" if owner else "")
    return "sequence-" + hashlib.blake2b(text.encode(), digest_size=24).hexdigest()


def _not_started(model: SegmentationModel, request: InferRequest) -> SequenceStartError:
    message = (
        f"inference request for sequence {str(request.parameters.sequence_id)[:80]} to model '{model.name}' must "
        "specify the START flag on the first request of the sequence; it may have ended, or been idle for too long"
    )
    return SequenceStartError(message, [FieldError("parameters.sequence_start", message)])
