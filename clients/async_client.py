"""The service for programs with an event loop: what :mod:`clients.client` and :mod:`clients.streaming` are for threads.

Both are thin: the decisions are in :mod:`clients.calls` and :mod:`clients.stream_protocol`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx

from clients.access import Access, access
from clients.calls import Answer, Call, Calls, Flow, Pause
from clients.client import stream_protocol
from clients.connection import AsyncConnection
from clients.errors import ClientError, ConnectionLostError, DrainingError, RequestTimeoutError, SessionInUseError
from clients.health import Health, StateListener, StreamState
from clients.items import Item
from clients.options import StreamOptions
from clients.pictures import Picture
from clients.policies import RESUMING, Retries, Timeouts
from clients.results import ModelInfo, PictureResult, Result, SessionInfo
from clients.stream_protocol import StreamProtocol
from models.events import EventBatch, SensorSize

T = TypeVar("T")


class AsyncClient:
    """An asynchronous client of one service; an asynchronous context manager.

    The parameters, calls and errors are those of :class:`~clients.client.Client`.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        timeout: float | Timeouts = 60.0,
        retries: Retries = Retries(),  # noqa: B008 it is immutable
        resume: Retries = RESUMING,
        token: str | None = None,
        verify: bool | str | ssl.SSLContext = True,
    ) -> None:
        self._access = access(base_url, token=token, verify=verify)
        self._timeouts = Timeouts.of(timeout)
        self._resume = resume
        self._calls = Calls(base_url, self._timeouts, retries)
        self._http = httpx.AsyncClient(
            base_url=self._access.http, headers=self._access.headers, verify=self._access.tls or True
        )
        self._streams: list[AsyncResultStream] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; streams that are not at their end are left."""
        for stream in self._streams:
            await stream.close()
        await self._http.aclose()

    async def models(self) -> tuple[ModelInfo, ...]:
        """See :meth:`Client.models <clients.client.Client.models>`."""
        return await self._drive(self._calls.models())

    async def wait_until_ready(self, patience_s: float = 60.0) -> None:
        """See :meth:`Client.wait_until_ready <clients.client.Client.wait_until_ready>`."""
        await self._drive(self._calls.wait_until_ready(patience_s))

    async def segment(
        self, events: EventBatch, sensor: SensorSize, *, model: str | None = None, window_us: int | None = None
    ) -> Result:
        """See :meth:`Client.segment <clients.client.Client.segment>`."""
        return await self._drive(self._calls.segment(events, sensor, model, window_us))

    async def segment_picture(self, picture: Picture, *, model: str | None = None) -> PictureResult:
        """See :meth:`Client.segment_picture <clients.client.Client.segment_picture>`."""
        return await self._drive(self._calls.segment_picture(picture, model))

    def stream(
        self,
        source: Iterable[Item] | AsyncIterable[Item],
        sensor: SensorSize | None = None,
        *,
        model: str | None = None,
        window_us: int | None = None,
        mask: Literal["zlib", "raw", "png"] = "zlib",
        options: StreamOptions | None = None,
        on_state: StateListener | None = None,
    ) -> AsyncResultStream:
        """Stream events, or frames, through a session of their own.

        The parameters are those of :meth:`Client.stream <clients.client.Client.stream>`, but the source may be an
        asynchronous iterable. One that is not has its items taken in a thread, so that it may wait for them.

        Returns
        -------
        AsyncResultStream
            The session is opened as it is entered, or as its first result is asked for.
        """
        protocol = stream_protocol(
            source, sensor, model, window_us, mask, options, on_state, timeouts=self._timeouts, resume=self._resume
        )
        stream = AsyncResultStream(
            protocol, source, self._access, connect_s=self._timeouts.connect, discard=self._discard
        )
        self._streams = [other for other in self._streams if not other.closed] + [stream]
        return stream

    async def _discard(self, session: str) -> None:
        await self._drive(self._calls.discard(session))

    async def _drive(self, flow: Flow[T]) -> T:
        answer: Answer | ClientError | None = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                answer = None
            else:
                answer = await self._perform(step)

    async def _perform(self, call: Call) -> Answer | ClientError:
        try:
            async with asyncio.timeout(call.total_s):
                response = await self._http.request(
                    call.method,
                    call.path,
                    params=dict(call.params),
                    headers=dict(call.headers),
                    content=call.content,
                    timeout=call.timeout,
                )
        except TimeoutError:
            return self._calls.too_late()
        except httpx.TransportError as error:
            failure = self._calls.failed(error)
            failure.__cause__ = error
            return failure
        return Answer(response.status_code, response.headers, response.content)


class AsyncResultStream(AsyncIterator[Result]):
    """What :class:`~clients.streaming.ResultStream` is, for an event loop; :meth:`AsyncClient.stream` makes it.

    Results are given while the source waits for events, so that a camera costs no latency. Asking for a result may be
    cancelled and repeated: nothing is lost.

    Attributes
    ----------
    session : SessionInfo
        As it was when it opened; there is none before.
    """

    session: SessionInfo

    def __init__(
        self,
        protocol: StreamProtocol,
        items: Iterable[Item] | AsyncIterable[Item],
        access: Access,
        *,
        connect_s: float,
        discard: Callable[[str], Awaitable[None]],
    ) -> None:
        self._protocol = protocol
        self._take = _taker(items)
        self._access = access
        self._connect_s = connect_s
        self._discard = discard
        self._connection: AsyncConnection | None = None
        # At most one of each is under way, also while nobody asks for results.
        self._taking: asyncio.Task[Item | None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[str | bytes] | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        if self.closed:
            raise StopAsyncIteration
        protocol = self._protocol
        try:
            await self._open()
            while not protocol.finished:
                try:
                    result = await self._step()
                except (ConnectionLostError, DrainingError, RequestTimeoutError) as lost:
                    await self._drop()
                    await self._connect(lost)
                    continue
                if result is not None:
                    return result
            if protocol.fault is not None:
                raise protocol.fault
        except SessionInUseError as error:
            # It belongs to the other connection now.
            protocol.close(error.message)
            await self._release()
            raise
        except asyncio.CancelledError:
            # Whoever asked for this result may ask again; what is under way goes on.
            raise
        except BaseException as error:
            await self._leave(str(error) or type(error).__name__)
            raise
        protocol.close()
        connection, self._connection = self._connection, None
        await self._release()
        if connection is not None:
            await connection.close()
        raise StopAsyncIteration

    @property
    def closed(self) -> bool:
        """Whether the stream is at its end, failed, or was left."""
        return self._protocol.state is StreamState.CLOSED

    @property
    def reconnects(self) -> int:
        """How often the session was taken up again."""
        return self._protocol.reconnects

    @property
    def restarts(self) -> int:
        """How often the service had lost the session, and a new one went on in its place."""
        return self._protocol.restarts

    @property
    def state(self) -> StreamState:
        """Where the stream stands."""
        return self._protocol.state

    @property
    def health(self) -> Health:
        """How the stream is doing."""
        return self._protocol.health

    def listen(self, listener: StateListener) -> None:
        """Have somebody told of every change of state, in the event loop."""
        self._protocol.listen(listener)

    async def close(self) -> None:
        """Leave the stream; the session ends, and its open window stays unanswered. Harmless when it is over."""
        await self._leave("left before its end")

    async def _open(self) -> None:
        if self._connection is None and not self.closed:
            await self._connect()

    async def _leave(self, reason: str) -> None:
        if self.closed:
            return
        self._protocol.close(reason)
        await self._release()
        if self._protocol.session is not None:
            await self._discard(self._protocol.session.id)

    async def _step(self) -> Result | None:
        """Start whatever can be done, and wait until something of it is."""
        protocol, connection = self._protocol, self._connection
        assert connection is not None
        if self._sending is None and (message := protocol.next_message()) is not None:
            self._sending = asyncio.create_task(connection.send(message))
        if self._taking is None and protocol.hungry:
            self._taking = asyncio.create_task(self._take())
        if self._reading is None:
            self._reading = asyncio.create_task(connection.receive())
        under_way = {task for task in (self._sending, self._taking, self._reading) if task is not None}
        await asyncio.wait(under_way, timeout=protocol.patience_s, return_when=asyncio.FIRST_COMPLETED)
        if self._reading.done():
            reading, self._reading = self._reading, None
            return protocol.receive(reading.result())
        if self._taking is not None and self._taking.done():
            taking, self._taking = self._taking, None
            item = taking.result()
            if item is None:
                protocol.end()
            else:
                protocol.feed(item)
        if self._sending is not None and self._sending.done():
            sending, self._sending = self._sending, None
            sending.result()
        protocol.tick()
        return None

    async def _connect(self, lost: ClientError | None = None) -> None:
        """Open a connection that is welcomed, now or after ``lost`` broke the one before."""
        while True:
            if lost is not None:
                await asyncio.sleep(self._protocol.lost(lost))
            try:
                self._connection = await self._attempt()
            except ClientError as error:
                lost = error
            else:
                assert self._protocol.session is not None
                if self._protocol.reconnects == self._protocol.restarts == 0:
                    self.session = self._protocol.session
                return

    async def _attempt(self) -> AsyncConnection:
        protocol, opening = self._protocol, self._protocol.open()
        connection = await AsyncConnection.open(
            self._access,
            opening.session,
            timeout=self._connect_s,
            max_message_bytes=protocol.max_message_bytes,
        )
        try:
            await connection.send(opening.hello)
            async with asyncio.timeout(protocol.welcome_s):
                data = await connection.receive()
            protocol.welcome(data)
        except TimeoutError:
            await connection.drop()
            raise ConnectionLostError(f"no welcome came within {protocol.welcome_s:g} s") from None
        except BaseException:
            await connection.drop()
            raise
        return connection

    async def _drop(self) -> None:
        """Be done with the connection; an item that is being taken stays wanted."""
        tasks = [task for task in (self._sending, self._reading) if task is not None]
        self._sending = self._reading = None
        connection, self._connection = self._connection, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if connection is not None:
            await connection.drop()

    async def _release(self) -> None:
        await self._drop()
        taking, self._taking = self._taking, None
        if taking is not None:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)


def _taker(items: Iterable[Item] | AsyncIterable[Item]) -> Callable[[], Coroutine[Any, Any, Item | None]]:
    """A way to the next item, or None at the end."""
    if isinstance(items, AsyncIterable):
        later = aiter(items)

        async def take() -> Item | None:
            return await anext(later, None)

        return take
    now = iter(items)

    async def take_in_thread() -> Item | None:
        return await asyncio.to_thread(next, now, None)

    return take_in_thread
