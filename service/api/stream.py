"""The WebSocket: a hello, then events in and masks out."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.websockets import WebSocketDisconnect, WebSocketState

from service.api.callers import SUBPROTOCOL, caller_of, takes
from service.api.inbox import Arrived, Inbox
from service.api.opening import checked_id, open_session
from service.api.problems import invalid_fields, problem_response
from service.api.schemas import Hello, ResumeHello, welcome
from service.api.services import AppServices, Services
from service.auth import Scope
from service.errors import (
    CapacityError,
    HelloError,
    RequestTimeoutError,
    ServiceError,
    SessionInUseError,
    TooLargeError,
    UnusableInputError,
    exhaustion,
)
from service.observability.tracing import span
from service.streaming.answers import AnswerFormat, Arrival
from service.streaming.backlog import Policy
from service.streaming.session import Advance, Attachment, Command, End, Events, Flush, Look, Reset, Session
from service.streaming.windowing.event_stream import LIGHT_BYTES
from service.wire.errors import MessageError, WireError
from service.wire.events import decode_packet
from service.wire.frames import decode_frame
from service.wire.masks import MaskEncoding
from service.wire.messages import (
    Message,
    MessageType,
    decode_advance,
    decode_message,
    encode_ack,
    encode_goaway,
    encode_result,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Span

router = APIRouter()
logger = logging.getLogger(__name__)

_MAX_HELLO_CHARS = 65_536
_MERGEABLE = (MessageType.EVENTS, MessageType.ADVANCE, MessageType.FRAME)
_PLAIN: dict[MessageType, Command] = {
    MessageType.RESET: Reset(),
    MessageType.FLUSH: Flush(),
    MessageType.END: End(),
}


@router.websocket("/v1/stream")
@takes(Scope.STREAM)
async def stream(websocket: WebSocket, services: AppServices) -> None:
    """Stream events through a session; see docs/protocol.md."""
    await Conversation(websocket, services).run()


class _GoAwayError(Exception):
    """The server is about to stop."""


class Conversation:
    """One WebSocket connection, from handshake to close.

    Parameters
    ----------
    websocket : WebSocket
        ``session`` in its query names the session that the client means to open or resume; proxies choose by it.
    services : Services
    """

    def __init__(self, websocket: WebSocket, services: Services) -> None:
        self._websocket = websocket
        self._services = services
        self._named = websocket.query_params.get("session")
        self._caller = caller_of(websocket)
        self._gone: WebSocketDisconnect | None = None
        self._exchange: asyncio.Task[None] | None = None
        self._inbox = Inbox(services.settings.queue_messages, services.settings.queue_bytes)
        self._answered = self._told = 0
        self._sending = asyncio.Lock()
        self._handshake: Span | None = None

    async def run(self) -> None:
        """Talk until either side closes; whatever goes wrong is said before closing."""
        connections = self._services.presence.connections
        try:
            await self._admit()
        except ServiceError as error:
            await self._turn_away(error)
            return
        connections.add(self)
        try:
            attributes = {"url.path": self._websocket.url.path}
            with span("handshake", attributes, server=True, carrier=self._websocket.headers) as self._handshake:
                spoken = SUBPROTOCOL in self._websocket.scope.get("subprotocols", ())
                await self._websocket.accept(SUBPROTOCOL if spoken else None)
                opened = await self._greet()
                if self._handshake is not None:
                    self._handshake.set_attribute("spikeseg.session", opened[0].id)
            await self._hold(*opened)
        except WebSocketDisconnect:
            return
        except _GoAwayError:
            await self._leave()
        except ServiceError as error:
            await self._refuse(error)
        except WireError as error:
            await self._refuse(UnusableInputError.from_wire(error))
        except Exception as error:
            logger.exception("a WebSocket conversation failed")
            exhausted = exhaustion(error) if isinstance(error, OSError) else None
            await self._refuse(exhausted or ServiceError("the server failed at this message; its log says why"))
        finally:
            connections.discard(self)

    def go_away(self) -> None:
        """Answer the message that is under way, then tell the client to go and close."""
        self._inbox.end(_GoAwayError(), at_once=True)

    async def _admit(self) -> None:
        """Raise what the handshake is refused with, if it is."""
        services = self._services
        services.require_open()
        retry = {"Retry-After": str(services.settings.retry_seconds)}
        most = services.settings.max_connections
        if len(services.presence.connections) >= most:
            raise CapacityError(f"all {most} connections of this server are in use; try again later", headers=retry)
        checked_id(self._named)
        # A client that takes up a session of this server needs no room; one that does not say so may still.
        if self._named is not None:
            await services.registry.require_room_for(self._named)

    async def _turn_away(self, error: ServiceError) -> None:
        """Answer the handshake with a problem."""
        self._services.metrics.count_error(error.code)
        response = problem_response(error.problem(), error.headers)
        await self._websocket.send_denial_response(response)

    async def _greet(self) -> tuple[Session, AnswerFormat, str, bool]:
        """The session that the hello asks for, how to answer in it, its token, and whether it is new."""
        seconds = self._services.settings.hello_seconds
        try:
            async with asyncio.timeout(seconds):
                event = await self._receive()
        except TimeoutError:
            raise RequestTimeoutError(f"no hello came within {seconds:g} s") from None
        hello = _parse_hello(event.get("text"))
        if isinstance(hello, ResumeHello):
            self._services.require_open()
            session = await self._services.registry.resume(hello.resume, self._caller.id)
            self._services.metrics.count_resumed()
            mask = MaskEncoding(hello.mask) if hello.mask else session.form.mask
            metrics = session.form.metrics if hello.metrics is None else hello.metrics
            return session, AnswerFormat(mask, metrics), hello.resume, False
        try:
            session, token = await open_session(self._services, hello, self._named, owner=self._caller.id)
        except UnusableInputError as error:
            raise HelloError(error.detail, error.errors) from None
        return session, session.form, token, True

    async def _hold(self, session: Session, form: AnswerFormat, token: str, new: bool) -> None:
        """Attach to the session for as long as the exchange lasts."""
        holder = await session.attach(self._stop)
        # A task of its own, so that it can be stopped wherever it is and this one can still say why.
        self._exchange = asyncio.create_task(self._talk(session, form, holder, token, new))
        try:
            await self._exchange
        except asyncio.CancelledError:
            if holder.evicted is not None:
                raise holder.evicted from None
            if self._gone is not None:
                raise self._gone from None
            raise
        except _GoAwayError:
            with suppress(SessionInUseError):
                await session.keep()
            if session.acked > self._told:
                await self._acknowledge(session, self._answered)
            raise
        finally:
            session.detach(holder)

    def _stop(self) -> None:
        if self._exchange is not None:
            self._exchange.cancel()

    async def _talk(self, session: Session, form: AnswerFormat, holder: Attachment, token: str, new: bool) -> None:
        text = json.dumps(
            {**welcome(session, self._services.settings, token), "mask": form.mask, "metrics": form.metrics}
        )
        try:
            await self._send(text)
        except WebSocketDisconnect:
            if new:
                # Its token never reached anyone.
                await self._services.registry.remove(session, why="its client has left")
            raise
        reader = asyncio.create_task(self._read())
        news = asyncio.create_task(self._tell_acked(session))
        try:
            while True:
                first = await self._inbox.next()
                with span(
                    f"message {first.message.type.name}",
                    {"spikeseg.session": session.id, "spikeseg.sequence": first.message.sequence},
                    server=True,
                    root_of=self._handshake,
                ):
                    goes_on = await self._answer(first, session, form, holder)
                if not goes_on:
                    await self._websocket.close(1000, "the session has ended")
                    return
        finally:
            for task in (reader, news):
                task.cancel()
            await asyncio.gather(reader, news, return_exceptions=True)

    async def _read(self) -> None:
        """Put what arrives into the inbox, until nothing more can come."""
        limit = self._services.settings.max_message_bytes
        try:
            while True:
                event = await self._receive()
                arrived = time.perf_counter()
                data = event.get("bytes")
                if data is None:
                    raise UnusableInputError("after the hello only binary messages are understood")
                if len(data) > limit:
                    raise TooLargeError(f"the message has {len(data)} bytes, at most {limit} are taken")
                await self._inbox.put(Arrived(decode_message(data), arrived))
        except WebSocketDisconnect as gone:
            # Nobody is left to answer.
            self._gone = gone
            self._stop()
        except (ServiceError, WireError) as error:
            self._inbox.end(error)

    async def _tell_acked(self, session: Session) -> None:
        """Acknowledge what reaches the state store after it was answered."""
        changed = asyncio.Event()
        session.keeper.on_acked = changed.set
        while True:
            await changed.wait()
            changed.clear()
            if session.acked > self._told:
                await self._acknowledge(session, self._answered)

    async def _acknowledge(self, session: Session, number: int) -> None:
        """Say that a message has been answered, and which ones will not be lost."""
        self._told = session.acked
        await self._send(encode_ack(number, session.acked, self._services.settings.queue_messages))

    async def _answer(self, first: Arrived, session: Session, form: AnswerFormat, holder: Attachment) -> bool:
        """Take a message, and what may be taken with it, and acknowledge it; False if it was the last one."""
        number = first.message.sequence
        answered = session.earlier(number, holder)
        if answered is not None:
            for answer in answered:
                await self._send(encode_result(answer.window, answer.metadata, answer.mask))
            self._answered = max(self._answered, number)
            await self._acknowledge(session, number)
            return not (session.ended and number == session.next_sequence - 1)
        batch = [first, *self._company(first, session)]
        begun = time.perf_counter()
        offload = self._services.engine.offload
        with span("decode"):
            commands = [
                _command(item.message, session)
                if _is_light(item.message)
                else await offload(_command, item.message, session)
                for item in batch
            ]
        decode_s = time.perf_counter() - begun
        self._services.metrics.observe_decode(decode_s)
        try:
            await self._take(commands, number, Arrival(batch[-1].at, decode_s), session, form, holder)
        except UnusableInputError:
            if len(batch) == 1:
                raise
            # Only what cannot be used is refused, and only after what came before it.
            for index, (item, command) in enumerate(zip(batch, commands, strict=True)):
                await self._take([command], number + index, Arrival(item.at, decode_s), session, form, holder)
        if session.ended:
            # Nobody comes back to make sure.
            await session.keep()
        self._answered = number + len(batch) - 1
        await self._acknowledge(session, self._answered)
        return not session.ended

    def _company(self, first: Arrived, session: Session) -> list[Arrived]:
        """Messages that wait behind this one and whose windows may be dropped or merged with its own."""
        batch: list[Arrived] = []
        if session.backlog.policy is Policy.WAIT or first.message.type not in _MERGEABLE:
            return batch
        while (item := self._inbox.peek()) is not None and item.message.type in _MERGEABLE:
            if item.message.sequence != first.message.sequence + len(batch) + 1:
                break
            batch.append(self._inbox.take())
        return batch

    async def _take(
        self,
        commands: Sequence[Command],
        number: int,
        arrival: Arrival,
        session: Session,
        form: AnswerFormat,
        holder: Attachment,
    ) -> None:
        answers = session.process(commands, form, arrival, sequence=number, holder=holder)
        async with aclosing(answers):
            async for answer in answers:
                await self._send(encode_result(answer.window, answer.metadata, answer.mask))

    async def _leave(self) -> None:
        """Tell the client to go elsewhere."""
        reason = "the server is about to stop"
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._send(encode_goaway(self._answered, reason))
            await self._websocket.close(1012, reason)

    async def _receive(self) -> dict[str, Any]:
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        return dict(event)

    async def _send(self, data: bytes | str) -> None:
        """Send one message; a client that does not take it in time is told so behind it, and counts as gone."""
        seconds = self._services.settings.send_seconds
        try:
            async with asyncio.timeout(seconds), self._sending:
                if self._websocket.application_state is not WebSocketState.CONNECTED:
                    raise WebSocketDisconnect(1006)
                if isinstance(data, str):
                    await self._websocket.send_text(data)
                else:
                    await self._websocket.send_bytes(data)
        except TimeoutError:
            logger.info("a WebSocket client has stopped reading; its connection is dropped")
            slow = RequestTimeoutError(f"what was sent has not been taken for {seconds:g} s")
            self._services.metrics.count_error(slow.code)
            if self._websocket.application_state is WebSocketState.CONNECTED:
                await self._websocket.close(slow.close_code, slow.reason)
            raise WebSocketDisconnect(1006) from None

    async def _refuse(self, error: ServiceError) -> None:
        self._services.metrics.count_error(error.code)
        if self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        document = error.problem()
        document |= {"problem": document["type"], "type": "error", "code": error.close_code}
        if "Retry-After" in error.headers:
            document["retry_after"] = int(error.headers["Retry-After"])
        with suppress(WebSocketDisconnect):
            await self._send(json.dumps(document))
            await self._websocket.close(error.close_code, error.reason)


def _parse_hello(text: str | None) -> Hello | ResumeHello:
    if text is None:
        raise HelloError("the first message must be the hello, as text")
    if len(text) > _MAX_HELLO_CHARS:
        raise HelloError(f"the hello is longer than {_MAX_HELLO_CHARS} characters")
    try:
        document = from_json(text)
    except ValueError:
        raise HelloError("the hello is not JSON") from None
    resumes = isinstance(document, dict) and "resume" in document
    try:
        return ResumeHello.model_validate_json(text) if resumes else Hello.model_validate_json(text)
    except ValidationError as error:
        detail, errors = invalid_fields(error)
        raise HelloError(detail, errors) from None


def _is_light(message: Message) -> bool:
    """Whether decoding it takes less time than a change of threads."""
    return message.type is not MessageType.FRAME and len(message.payload) <= LIGHT_BYTES


def _command(message: Message, session: Session) -> Command:
    """What a client's message asks for.

    Raises
    ------
    WireError
        If its payload cannot be decoded, or it is not one that clients send.
    """
    match message.type:
        case MessageType.EVENTS:
            packet = decode_packet(message.payload, ordered=session.stream.ordered)
            return Events(packet.events, packet.sensor)
        case MessageType.FRAME:
            return Look(decode_frame(message.payload, session.sensor))
        case MessageType.ADVANCE:
            return Advance(decode_advance(message.payload))
        case MessageType.RESET | MessageType.END | MessageType.FLUSH:
            if len(message.payload):
                raise MessageError(f"{message.type.name} carries no payload", "length")
            return _PLAIN[message.type]
        case _:
            raise MessageError(f"{message.type.name} messages are sent by the server only", "type")
