"""The service for programs: models, single masks, and streams of masks."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx

from clients.access import access
from clients.calls import Answer, Call, Calls, Flow, Pause
from clients.errors import ClientError, InputError
from clients.following import Follower, ResultListener
from clients.health import StateListener
from clients.items import Item
from clients.options import FrameOptions, StreamOptions
from clients.pictures import Picture
from clients.policies import RESUMING, Retries, Timeouts
from clients.results import ModelInfo, PictureResult, Result
from clients.stream_protocol import StreamProtocol
from clients.streaming import ResultStream
from models.events import EventBatch, SensorSize
from service.wire.messages import PROTOCOL_VERSION

T = TypeVar("T")


class Client:
    """A synchronous client of one service; a context manager.

    Parameters
    ----------
    base_url : str
        Address of the service, as ``http://127.0.0.1:8000``; a path before ``/v1`` is kept.
    timeout : float or Timeouts
        Longest waits, in seconds; a number stands for both the connection and each answer.
    retries : Retries
        For calls that broke, or that the service could not take at the time.
    resume : Retries
        For streams whose connection broke: attempts in a row that lead to nothing new.
    token : str, optional
        Sent as ``Authorization: Bearer``.
    verify : bool, str or ssl.SSLContext
        Whether the service's certificate is checked; a file of certificates to trust; or a context of one's own.

    Raises
    ------
    ConnectError
        If ``base_url`` is no address of HTTP, or ``token`` or ``verify`` cannot be used.
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
        self._http = httpx.Client(
            base_url=self._access.http, headers=self._access.headers, verify=self._access.tls or True
        )
        self._streams: list[ResultStream] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; streams that are not at their end are left."""
        for stream in self._streams:
            stream.close()
        self._http.close()

    def models(self) -> tuple[ModelInfo, ...]:
        """The networks that the service offers.

        Raises
        ------
        ClientError
            See :mod:`clients.errors`.
        """
        return self._drive(self._calls.models())

    def wait_until_ready(self, patience_s: float = 60.0) -> None:
        """Return once the service is ready to serve.

        Raises
        ------
        ClientError
            What the last attempt came to, if it is not so within ``patience_s`` seconds.
        """
        self._drive(self._calls.wait_until_ready(patience_s))

    def segment(
        self, events: EventBatch, sensor: SensorSize, *, model: str | None = None, window_us: int | None = None
    ) -> Result:
        """Run events through a network at rest, window by window; the last window's result.

        Parameters
        ----------
        events : EventBatch
            At least one, ordered by time in microseconds, inside the sensor.
        sensor : SensorSize
            Pixels.
        model : str, optional
            The service's default if not given.
        window_us : int, optional
            Length of a window in microseconds; the model's own if not given.

        Returns
        -------
        Result
            Its mask is a uint8 array (sensor.height, sensor.width).

        Raises
        ------
        InputError
            If the events cannot be used.
        UnknownModelError
        ClientError
            See :mod:`clients.errors` for the others.
        """
        return self._drive(self._calls.segment(events, sensor, model, window_us))

    def segment_picture(self, picture: Picture, *, model: str | None = None) -> PictureResult:
        """Run a picture through a network of frames.

        Parameters
        ----------
        picture : uint8 array (H, W) or (H, W, 3), or bytes
            Grey or RGB pixels, which are sent without loss; or a PNG, JPEG or WebP file, which is sent as it is.
        model : str, optional
            A network of frames; the service's default one if not given.

        Returns
        -------
        PictureResult
            Its mask is a uint8 array (H, W).

        Raises
        ------
        InputError
            If the picture cannot be used.
        UnknownModelError
        ClientError
            See :mod:`clients.errors` for the others.
        """
        return self._drive(self._calls.segment_picture(picture, model))

    def stream(
        self,
        source: Iterable[Item],
        sensor: SensorSize | None = None,
        *,
        model: str | None = None,
        window_us: int | None = None,
        mask: Literal["zlib", "raw", "png"] = "zlib",
        options: StreamOptions | None = None,
        on_state: StateListener | None = None,
    ) -> ResultStream:
        """Stream events, or frames, through a session of their own.

        Parameters
        ----------
        source : iterable of EventBatch, Advance or Flush; or of Frame
            A :class:`~clients.sources.Source`, or batches ordered by time in microseconds, also from one to the next
            (unless ``options`` allow otherwise), inside the sensor. They may be of any length: large ones are cut, and
            how they are cut changes no mask. With ``StreamOptions(frames=…)`` :class:`~clients.items.Frame`, of which
            the service makes the events.
        sensor : SensorSize, optional
            Pixels; that of the source if it has one.
        model : str, optional
            The service's default if not given.
        window_us : int, optional
            Length of a window in microseconds; the model's own if not given.
        mask : str
            How masks travel.
        options : StreamOptions, optional
            How the stream is cut, timed and queued.
        on_state : callable, optional
            Told of every :class:`~clients.health.StateChange`, as :meth:`ResultStream.listen` has it.

        Returns
        -------
        ResultStream
            An iterator of :class:`~clients.results.Result`: one for each window from the first event's to the last
            one's, each exactly once; masks are uint8 arrays (sensor.height, sensor.width). Exhaust or close it.

        Raises
        ------
        UnknownModelError
        HelloError
            If the service does not take such a sensor or window.
        CapacityError
            If it has no room for another session.
        InputError
            If the source does not say how large its sensor is. While iterating: if events cannot be used; what came
            before them has been answered.
        ConnectionLostError
            While iterating: if the connection broke and could not be taken up again.
        ClientError
            See :mod:`clients.errors` for the others.
        """
        protocol = stream_protocol(
            source, sensor, model, window_us, mask, options, on_state, timeouts=self._timeouts, resume=self._resume
        )
        stream = ResultStream(protocol, source, self._access, connect_s=self._timeouts.connect, discard=self._discard)
        self._streams = [other for other in self._streams if not other.closed] + [stream]
        return stream

    def follow(
        self,
        source: Iterable[Item],
        sensor: SensorSize | None = None,
        *,
        on_result: ResultListener | None = None,
        model: str | None = None,
        window_us: int | None = None,
        options: StreamOptions | None = None,
        on_state: StateListener | None = None,
    ) -> Follower:
        """Stream events in a thread of their own.

        The parameters and errors are those of :meth:`stream`.

        Parameters
        ----------
        on_result : callable, optional
            Told of every result, in that thread.

        Returns
        -------
        Follower
            Has the latest result, and the stream's health, at any time.
        """
        size = sensor if sensor is not None else getattr(source, "sensor", None)

        def open_stream(items: Iterable[Item]) -> ResultStream:
            return self.stream(items, size, model=model, window_us=window_us, options=options, on_state=on_state)

        return Follower(open_stream, source, on_result)

    def _discard(self, session: str) -> None:
        self._drive(self._calls.discard(session))

    def _drive(self, flow: Flow[T]) -> T:
        """Do what a flow wants done; its result."""
        answer: Answer | ClientError | None = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                answer = None
            else:
                answer = self._perform(step)

    def _perform(self, call: Call) -> Answer | ClientError:
        end = None if call.total_s is None else time.monotonic() + call.total_s
        parts: list[bytes] = []
        try:
            with self._http.stream(
                call.method,
                call.path,
                params=dict(call.params),
                headers=dict(call.headers),
                content=call.content,
                timeout=call.timeout,
            ) as response:
                for part in response.iter_bytes():
                    parts.append(part)
                    if end is not None and time.monotonic() > end:
                        return self._calls.too_late()
                return Answer(response.status_code, response.headers, b"".join(parts))
        except httpx.TransportError as error:
            failure = self._calls.failed(error)
            failure.__cause__ = error
            return failure


def stream_protocol(
    source: object,
    sensor: SensorSize | None,
    model: str | None,
    window_us: int | None,
    mask: str,
    options: StreamOptions | None,
    on_state: StateListener | None,
    *,
    timeouts: Timeouts,
    resume: Retries,
) -> StreamProtocol:
    """The protocol of a new stream; the parameters are those of :meth:`Client.stream`."""
    if isinstance(source, EventBatch | str | bytes):
        kind = type(source).__name__
        raise InputError(f"a stream takes an iterable of batches, as open_source gives one, not a single {kind}")
    size = sensor if sensor is not None else getattr(source, "sensor", None)
    if size is None:
        raise InputError("the source does not say how large its sensor is: give the sensor's size")
    if not isinstance(size, SensorSize):
        raise InputError(f"the sensor's size is a SensorSize(width, height), not {size!r}")
    options = StreamOptions() if options is None else options
    if not isinstance(options, StreamOptions) or not isinstance(options.frames, FrameOptions | None):
        raise InputError("options are StreamOptions(…), and its frames are FrameOptions(…)")
    hello: dict[str, Any] = {
        "type": "hello",
        "version": PROTOCOL_VERSION,
        "sensor": {"width": size.width, "height": size.height},
        "mask": mask,
        **options.hello(window_us),
    }
    if model is not None:
        hello["model"] = model
    return StreamProtocol(hello, size, options, timeouts=timeouts, retries=resume, listener=on_state)
