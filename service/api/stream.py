"""The WebSocket: a hello, then events in and masks out."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import aclosing, suppress
from typing import Any

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.websockets import WebSocketDisconnect, WebSocketState

from service.api.opening import open_session
from service.api.problems import invalid_fields
from service.api.schemas import Hello, ResumeHello, welcome
from service.api.services import AppServices, Services
from service.errors import (
    HelloError,
    RequestTimeoutError,
    ServiceError,
    SessionInUseError,
    TooLargeError,
    UnusableInputError,
)
from service.streaming.answers import AnswerFormat, Arrival
from service.streaming.session import Advance, Attachment, Command, End, Events, Reset, Session
from service.wire.errors import MessageError, WireError
from service.wire.events import decode_packet
from service.wire.masks import MaskEncoding
from service.wire.messages import Message, MessageType, decode_advance, decode_message, encode_ack, encode_result

router = APIRouter()
logger = logging.getLogger(__name__)

_MAX_HELLO_CHARS = 65_536


@router.websocket("/v1/stream")
async def stream(websocket: WebSocket, services: AppServices) -> None:
    """Stream events through a session; see docs/protocol.md."""
    await Conversation(websocket, services).run()


class Conversation:
    """One WebSocket connection, from hello to close."""

    def __init__(self, websocket: WebSocket, services: Services) -> None:
        self._websocket = websocket
        self._services = services
        self._exchange: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Talk until either side closes; whatever goes wrong is said before closing."""
        try:
            await self._websocket.accept()
            await self._hold(*await self._greet())
        except WebSocketDisconnect:
            return
        except ServiceError as error:
            await self._refuse(error)
        except WireError as error:
            await self._refuse(UnusableInputError.from_wire(error))
        except Exception:
            logger.exception("a WebSocket conversation failed")
            await self._refuse(ServiceError("the server failed at this message; its log says why"))

    async def _greet(self) -> tuple[Session, AnswerFormat, bool]:
        """The session that the hello asks for, how to answer in it, and whether it is new."""
        seconds = self._services.settings.hello_seconds
        try:
            async with asyncio.timeout(seconds):
                event = await self._receive()
        except TimeoutError:
            raise RequestTimeoutError(f"no hello came within {seconds:g} s") from None
        hello = _parse_hello(event.get("text"))
        if isinstance(hello, ResumeHello):
            session = self._services.registry.resume(hello.resume)
            mask = MaskEncoding(hello.mask) if hello.mask else session.form.mask
            metrics = session.form.metrics if hello.metrics is None else hello.metrics
            return session, AnswerFormat(mask, metrics), False
        try:
            session = await open_session(self._services, hello)
        except UnusableInputError as error:
            raise HelloError(error.detail, error.errors) from None
        return session, session.form, True

    async def _hold(self, session: Session, form: AnswerFormat, new: bool) -> None:
        """Attach to the session for as long as the exchange lasts."""
        holder = await session.attach(self._stop)
        # A task of its own, so that it can be stopped wherever it is and this one can still say why.
        self._exchange = asyncio.create_task(self._talk(session, form, holder, new))
        try:
            await self._exchange
        except asyncio.CancelledError:
            if not holder.evicted:
                raise
            raise SessionInUseError("another connection has taken up this session") from None
        finally:
            session.detach(holder)

    def _stop(self) -> None:
        if self._exchange is not None:
            self._exchange.cancel()

    async def _talk(self, session: Session, form: AnswerFormat, holder: Attachment, new: bool) -> None:
        text = json.dumps({**welcome(session, self._services.settings), "mask": form.mask, "metrics": form.metrics})
        try:
            await self._send(text)
        except WebSocketDisconnect:
            if new:
                # Its token never reached anyone.
                self._services.registry.remove(session)
            raise
        while True:
            event = await self._receive()
            arrived = time.perf_counter()
            data = event.get("bytes")
            if data is None:
                raise UnusableInputError("after the hello only binary messages are understood")
            limit = self._services.settings.max_message_bytes
            if len(data) > limit:
                raise TooLargeError(f"the message has {len(data)} bytes, at most {limit} are taken")
            message = decode_message(data)
            if not await self._answer(message, session, form, holder, arrived):
                await self._websocket.close(1000, "the session has ended")
                return

    async def _answer(
        self, message: Message, session: Session, form: AnswerFormat, holder: Attachment, arrived: float
    ) -> bool:
        """Take one message and acknowledge it; False if it was the last one."""
        answered = session.earlier(message.sequence, holder)
        if answered is not None:
            for answer in answered:
                await self._send(encode_result(answer.window, answer.metadata, answer.mask))
            await self._send(encode_ack(message.sequence))
            return not (session.ended and message.sequence == session.next_sequence - 1)
        command = await self._services.engine.offload(_command, message)
        decode_s = time.perf_counter() - arrived
        self._services.metrics.observe_decode(decode_s)
        answers = session.process(command, form, Arrival(arrived, decode_s), sequence=message.sequence, holder=holder)
        async with aclosing(answers):
            async for answer in answers:
                await self._send(encode_result(answer.window, answer.metadata, answer.mask))
        await self._send(encode_ack(message.sequence))
        return not session.ended

    async def _receive(self) -> dict[str, Any]:
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        return dict(event)

    async def _send(self, data: bytes | str) -> None:
        """Send one message; a client that does not take it in time counts as gone."""
        try:
            async with asyncio.timeout(self._services.settings.send_seconds):
                if isinstance(data, str):
                    await self._websocket.send_text(data)
                else:
                    await self._websocket.send_bytes(data)
        except TimeoutError:
            logger.info("a WebSocket client has stopped reading; its connection is dropped")
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


def _command(message: Message) -> Command:
    """What a client's message asks for.

    Raises
    ------
    WireError
        If its payload cannot be decoded, or it is not one that clients send.
    """
    match message.type:
        case MessageType.EVENTS:
            packet = decode_packet(message.payload)
            return Events(packet.events, packet.sensor)
        case MessageType.ADVANCE:
            return Advance(decode_advance(message.payload))
        case MessageType.RESET | MessageType.END:
            if len(message.payload):
                raise MessageError(f"{message.type.name} carries no payload", "length")
            return Reset() if message.type is MessageType.RESET else End()
        case _:
            raise MessageError(f"{message.type.name} messages are sent by the server only", "type")
