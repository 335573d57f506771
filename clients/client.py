"""The service for programs: models, single masks, and streams of masks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from clients.connection import Connection
from clients.errors import (
    ConnectError,
    FieldError,
    InputError,
    NoAnswerError,
    ProtocolError,
    TransportError,
    from_problem,
)
from clients.options import StreamOptions
from clients.results import ModelInfo, Result, read_models, read_result
from clients.streaming import ResultStream
from clients.tracing import trace_headers
from models.events import EventBatch, SensorSize
from service.wire.errors import PacketError
from service.wire.events import MEDIA_TYPE, encode_packets
from service.wire.messages import PROTOCOL_VERSION

_PACKET_US = 2**32
_DISCARD_DELAYS_S = (0.0, 0.05, 0.2, 0.5)
_DISCARD_SECONDS = 5.0


class Client:
    """A synchronous client of one service; a context manager.

    Parameters
    ----------
    base_url : str
        Address of the service, as ``http://127.0.0.1:8000``; a path before ``/v1`` is kept.
    timeout : float
        Longest wait for a connection and for each answer, in seconds.

    Raises
    ------
    ConnectError
        If ``base_url`` is no address of HTTP.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:8000", *, timeout: float = 60.0) -> None:
        try:
            url = httpx.URL(base_url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConnectError(f"{base_url!r} is not an address: {error}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ConnectError(f"{base_url!r} is not an address: it should begin with http:// or https://")
        self._http = httpx.Client(base_url=url, timeout=timeout)
        self._base_url = base_url
        scheme = "wss" if url.scheme == "https" else "ws"
        self._stream_url = str(url.copy_with(scheme=scheme, path=url.path.rstrip("/") + "/v1/stream", query=None))
        self._timeout = timeout
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
        return read_models(_json(self._call("GET", "/v1/models").text))

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
        try:
            body = b"".join(encode_packets(events, sensor, packet_us=_PACKET_US))
        except PacketError as error:
            fields = [FieldError(error.field, str(error))] if error.field else []
            raise InputError(str(error), errors=fields) from None
        query = {"model": model, "window_us": window_us}
        response = self._call(
            "POST",
            "/v1/segment",
            params={name: value for name, value in query.items() if value is not None},
            content=body,
            headers={"Content-Type": MEDIA_TYPE, "Accept": "application/octet-stream"},
        )
        header = response.headers.get("Spikeseg-Result")
        if header is None:
            raise ProtocolError("the answer lacks the header Spikeseg-Result")
        return read_result(_json(header), response.content)

    def stream(
        self,
        batches: Iterable[EventBatch],
        sensor: SensorSize,
        *,
        model: str | None = None,
        window_us: int | None = None,
        mask: Literal["zlib", "raw", "png"] = "zlib",
        options: StreamOptions | None = None,
    ) -> ResultStream:
        """Stream events through a session of their own.

        Parameters
        ----------
        batches : iterable of EventBatch
            Ordered by time in microseconds, also from one to the next (unless ``options`` allow otherwise), inside the
            sensor. They may be of any length: large ones are cut, and how they are cut changes no mask.
        sensor : SensorSize
            Pixels.
        model : str, optional
            The service's default if not given.
        window_us : int, optional
            Length of a window in microseconds; the model's own if not given.
        mask : str
            How masks travel.
        options : StreamOptions, optional
            How the stream is cut, timed and queued.

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
            While iterating: if events cannot be used; what came before them has been answered.
        ConnectionLostError
            While iterating: if the connection broke and could not be taken up again.
        ClientError
            See :mod:`clients.errors` for the others.
        """
        options = StreamOptions() if options is None else options
        hello: dict[str, Any] = {
            "type": "hello",
            "version": PROTOCOL_VERSION,
            "sensor": {"width": sensor.width, "height": sensor.height},
            "mask": mask,
            **options.hello(window_us),
        }
        if model is not None:
            hello["model"] = model
        connect = partial(Connection, self._stream_url, timeout=self._timeout, mask_bytes=sensor.width * sensor.height)
        stream = ResultStream(
            connect, hello, batches, sensor, timeout=self._timeout, discard=self._discard, options=options
        )
        self._streams = [other for other in self._streams if not other.closed] + [stream]
        return stream

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            headers = {**arguments.pop("headers", {}), **trace_headers()}
            response = self._http.request(method, path, headers=headers, **arguments)
        except httpx.ConnectError as error:
            raise ConnectError(f"nobody answers at {self._base_url}: {error}") from error
        except httpx.TimeoutException as error:
            raise NoAnswerError(f"{self._base_url} gave no answer within {self._timeout:g} s") from error
        except httpx.TransportError as error:
            raise TransportError(f"the request to {self._base_url} failed: {error}") from error
        if response.is_success:
            return response
        if response.headers.get("Content-Type", "").partition(";")[0] != "application/problem+json":
            raise ProtocolError(
                f"{self._base_url} is not the service: it answers {path} with HTTP status {response.status_code}"
            )
        raise from_problem(_json(response.text), headers=response.headers)

    def _discard(self, session: str) -> None:
        """End a session that nobody will take up again; if that fails, the service does so after a while."""
        for delay_s in _DISCARD_DELAYS_S:
            time.sleep(delay_s)
            try:
                status = self._http.delete(f"/v1/sessions/{session}", timeout=_DISCARD_SECONDS).status_code
            except httpx.TransportError:
                return
            # The service may still be busy with the connection that was left.
            if status != httpx.codes.CONFLICT:
                return


def _json(text: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the answer is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ProtocolError("the answer is not a JSON object")
    return document
