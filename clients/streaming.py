"""Events in, results out over one session, however often its connection breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from clients.access import Access
from clients.connection import Connection
from clients.errors import ClientError, ConnectionLostError, DrainingError, RequestTimeoutError, SessionInUseError
from clients.health import Health, StateListener, StreamState
from clients.items import Item
from clients.results import Result, SessionInfo
from clients.stream_protocol import StreamProtocol


class ResultStream(Iterator[Result]):
    """Results of a stream of events, in the order of the windows, each exactly once.

    An iterator and a context manager; :meth:`clients.client.Client.stream` makes it. The session is opened at once.
    Items are taken from their iterator, in the thread that asks for results, only as fast as the service answers: while
    the source makes this thread wait, results wait too. When all have been sent, the open window is answered and the
    session ends. A stream that is left before its end must be closed, so that the service need not keep its session.

    If the connection breaks or the server goes, the session is taken up again, there or by another server, and what
    was not acknowledged is sent again; after so many attempts in a row that lead to nothing new,
    ``ConnectionLostError`` is raised. If the service refuses a batch, the results of what came before it are given
    first; then the error is raised, and the session is over.

    Attributes
    ----------
    session : SessionInfo
        As it was when it opened.
    """

    session: SessionInfo

    def __init__(
        self,
        protocol: StreamProtocol,
        items: Iterable[Item],
        access: Access,
        *,
        connect_s: float,
        discard: Callable[[str], None],
    ) -> None:
        self._protocol = protocol
        self._items = iter(items)
        self._access = access
        self._connect_s = connect_s
        self._discard = discard
        self._connection = self._connect()
        assert protocol.session is not None
        self.session = protocol.session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> Result:
        if self.closed:
            raise StopIteration
        protocol = self._protocol
        try:
            while not protocol.finished:
                try:
                    result = self._step()
                except (ConnectionLostError, DrainingError, RequestTimeoutError) as lost:
                    self._connection.drop()
                    self._connection = self._connect(lost)
                    continue
                if result is not None:
                    return result
            if protocol.fault is not None:
                raise protocol.fault
        except SessionInUseError as error:
            # It belongs to the other connection now.
            protocol.close(error.message)
            self._connection.drop()
            raise
        except BaseException as error:
            self._leave(str(error) or type(error).__name__)
            raise
        protocol.close()
        self._connection.close()
        raise StopIteration

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
        """How the stream is doing; may be asked for from any thread."""
        return self._protocol.health

    def listen(self, listener: StateListener) -> None:
        """Have somebody told of every change of state, in the thread that asks for results."""
        self._protocol.listen(listener)

    def close(self) -> None:
        """Leave the stream; the session ends, and its open window stays unanswered. Harmless when it is over."""
        self._leave("left before its end")

    def _leave(self, reason: str) -> None:
        if self.closed:
            return
        self._protocol.close(reason)
        self._connection.drop()
        assert self._protocol.session is not None
        self._discard(self._protocol.session.id)

    def _step(self) -> Result | None:
        """Read a message, or take an item, or send a message, whichever can be done first without waiting."""
        protocol, connection = self._protocol, self._connection
        data = connection.receive(0)
        if data is None and protocol.hungry:
            item = next(self._items, None)
            if item is None:
                protocol.end()
            else:
                protocol.feed(item)
            protocol.tick()
        if data is None and (message := protocol.next_message()) is not None:
            connection.send(message)
            return None
        if data is None and not protocol.hungry and not protocol.finished:
            data = connection.receive(protocol.patience_s)
            if data is None:
                protocol.tick()
        return None if data is None else protocol.receive(data)

    def _connect(self, lost: ClientError | None = None) -> Connection:
        """Open a connection that is welcomed, now or after ``lost`` broke the one before."""
        while True:
            if lost is not None:
                time.sleep(self._protocol.lost(lost))
            try:
                return self._attempt()
            except ClientError as error:
                lost = error

    def _attempt(self) -> Connection:
        protocol, opening = self._protocol, self._protocol.open()
        connection = Connection(
            self._access,
            opening.session,
            timeout=self._connect_s,
            max_message_bytes=protocol.max_message_bytes,
        )
        try:
            connection.send(opening.hello)
            data = connection.receive(protocol.welcome_s)
            if data is None:
                raise ConnectionLostError(f"no welcome came within {protocol.welcome_s:g} s")
            protocol.welcome(data)
        except BaseException:
            connection.drop()
            raise
        return connection
