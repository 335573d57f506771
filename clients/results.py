"""What the service answers, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.errors import ProtocolError
from models.classes import SegmentationClass
from models.events import SensorSize
from service.wire.errors import WireError
from service.wire.masks import MaskEncoding, decode_mask


@dataclass(frozen=True, slots=True)
class LayerActivity:
    """What one spiking layer did in a window.

    Attributes
    ----------
    name : str
    neurons, spikes : int
    firing_rate : float
        Spikes for each neuron.
    sops : float
        Synaptic operations that its spikes led to.
    """

    name: str
    neurons: int
    spikes: int
    firing_rate: float
    sops: float


@dataclass(frozen=True, slots=True)
class Activity:
    """What the network did in a window.

    Attributes
    ----------
    layers : tuple of LayerActivity
    firing_rate : float
        Spikes for each neuron, over all layers.
    sops : float
        Synaptic operations: additions that spikes led to.
    macs_ann : float
        Multiplications and additions of the same network without spikes.
    energy_snn_j, energy_ann_j : float
        Estimates of the energy of both, in joules.
    """

    layers: tuple[LayerActivity, ...]
    firing_rate: float
    sops: float
    macs_ann: float
    energy_snn_j: float
    energy_ann_j: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Where the service spent its time on a window, in milliseconds.

    Attributes
    ----------
    decode_ms : float
        The whole message's decoding.
    wait_ms : float
        The queue for the processor.
    compute_ms, encode_ms : float
    total_ms : float
        From the message's arrival to the mask being encoded; includes the message's windows before this one.
    """

    decode_ms: float
    wait_ms: float
    compute_ms: float
    encode_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not answered before a window.

    Attributes
    ----------
    gap : int
        Windows without events that were passed over.
    dropped : int
        Windows that were dropped, since they came faster than they could be computed.
    late_events : int
        Events that came too late to be sorted in.
    restart : bool
        Whether the network began anew, since the sensor's clock did or since the service had lost the session.
    filtered : mapping of str to int
        Events that the session's noise filters have dropped, by reason; empty without filters.
    """

    gap: int = 0
    dropped: int = 0
    late_events: int = 0
    restart: bool = False
    filtered: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One answered window.

    Attributes
    ----------
    window : int
        Number of the window; the first one is 0.
    t_start, t_end : int
        Microseconds of the sensor's clock; ``t_end`` lies outside.
    events : int
        Events in the window.
    windows : int
        How many windows it stands for; more than 1 if the service has merged some.
    skipped : Skipped
        What lies between it and the window answered before.
    mask : uint8 array, (H, W)
        Class ids; 255 is unlabelled. Read-only.
    activity : Activity or None
        None if the service was told to leave it out.
    latency : Latency
    class_share : tuple of float
        Share of the mask's pixels that each class has, in the order of the model's classes.
    deadline_missed : bool
        Whether its computation began after the deadline that was asked for.
    """

    window: int
    t_start: int
    t_end: int
    events: int
    windows: int
    skipped: Skipped
    mask: NDArray[np.uint8]
    activity: Activity | None
    latency: Latency
    class_share: tuple[float, ...]
    deadline_missed: bool


@dataclass(frozen=True, slots=True, eq=False)
class PictureResult:
    """The answer to a single picture.

    Attributes
    ----------
    mask : uint8 array, (H, W)
        Class ids of the network, of the picture's size; 255 is unlabelled. Read-only.
    activity : Activity
    latency : Latency
    class_share : tuple of float
        Share of the mask's pixels that each class has, in the order of the network's classes.
    png : bytes
        The mask as the service sent it: an indexed PNG in the colours of the network's classes.
    """

    mask: NDArray[np.uint8]
    activity: Activity
    latency: Latency
    class_share: tuple[float, ...]
    png: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A network that the service offers.

    Attributes
    ----------
    name : str
    default : bool
        Whether it is the one used when none is named.
    classes : tuple of SegmentationClass
    unlabelled : int
        Class id of pixels without a class.
    longest_side : int
        Longest side of the grid that events are binned to, in pixels.
    window_us : int
        Window that it is used with unless another is asked for, in microseconds.
    card : dict
        What is known of its training and quality.
    """

    name: str
    default: bool
    classes: tuple[SegmentationClass, ...]
    unlabelled: int
    longest_side: int
    window_us: int
    card: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What the service says of a session as it opens.

    Attributes
    ----------
    id : str
    resume : str
        Secret token that takes the session up again after its connection broke.
    model : str
    classes : tuple of SegmentationClass
    sensor : SensorSize
    window_us : int or None
        Length of a window in microseconds; None if windows are counted in events.
    next_sequence, next_window : int
        Numbers of the message and of the window that come next.
    credit : int
        Messages that the service takes up before it has answered them.
    max_message_bytes : int
        Largest message that the service takes.
    """

    id: str
    resume: str = field(repr=False)
    model: str
    classes: tuple[SegmentationClass, ...]
    sensor: SensorSize
    window_us: int | None
    next_sequence: int
    next_window: int
    credit: int
    max_message_bytes: int


def read_result(metadata: Mapping[str, Any], data: bytes) -> Result:
    """A result from its metadata and its encoded mask.

    Raises
    ------
    ProtocolError
        If they are not as the wire contract has them.
    """
    try:
        skipped = metadata["skipped"]
        activity = metadata.get("activity")
        return Result(
            window=int(metadata["window"]),
            t_start=int(metadata["t_start"]),
            t_end=int(metadata["t_end"]),
            events=int(metadata["events"]),
            windows=int(metadata["windows"]),
            skipped=Skipped(
                int(skipped["gap"]),
                int(skipped["dropped"]),
                int(skipped["late_events"]),
                bool(skipped["restart"]),
                {str(reason): int(count) for reason, count in skipped.get("filtered", {}).items()},
            ),
            mask=_mask(metadata["mask"], data),
            activity=None if activity is None else _activity(activity),
            latency=_latency(metadata["latency_ms"]),
            class_share=tuple(float(share) for share in metadata["class_share"]),
            deadline_missed=bool(metadata["deadline_missed"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, WireError) as error:
        raise ProtocolError(f"a result cannot be read: {_reason(error)}") from error


def read_picture_result(metadata: Mapping[str, Any], data: bytes) -> PictureResult:
    """The answer to a picture from its metadata and its mask, a PNG.

    Raises
    ------
    ProtocolError
        If they are not as the wire contract has them.
    """
    try:
        return PictureResult(
            mask=_mask(metadata["mask"], data),
            activity=_activity(metadata["activity"]),
            latency=_latency(metadata["latency_ms"]),
            class_share=tuple(float(share) for share in metadata["class_share"]),
            png=data,
        )
    except (KeyError, TypeError, ValueError, AttributeError, WireError) as error:
        raise ProtocolError(f"a result cannot be read: {_reason(error)}") from error


def read_models(document: Mapping[str, Any]) -> tuple[ModelInfo, ...]:
    """Models from the answer of ``GET /v1/models``.

    Raises
    ------
    ProtocolError
        If it is not as the wire contract has it.
    """
    try:
        return tuple(
            ModelInfo(
                name=str(item["name"]),
                default=bool(item["default"]),
                classes=_classes(item["classes"]),
                unlabelled=int(item["unlabelled"]),
                longest_side=int(item["grid"]["longest_side"]),
                window_us=int(item["window"]["us"]),
                card=dict(item["card"]),
            )
            for item in document["models"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the list of models cannot be read: {_reason(error)}") from error


def read_welcome(document: Mapping[str, Any]) -> SessionInfo:
    """A session from the text that answers the hello.

    Raises
    ------
    ProtocolError
        If it is not as the wire contract has it.
    """
    try:
        if document["type"] != "welcome":
            raise ValueError(f"its type is {document['type']!r}")
        return SessionInfo(
            id=str(document["session"]),
            resume=str(document["resume"]),
            model=str(document["model"]),
            classes=_classes(document["classes"]),
            sensor=SensorSize(int(document["sensor"]["width"]), int(document["sensor"]["height"])),
            window_us=int(document["window"]["us"]) if "us" in document["window"] else None,
            next_sequence=int(document["next_sequence"]),
            next_window=int(document["next_window"]),
            credit=int(document["credit"]),
            max_message_bytes=int(document["max_message_bytes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the welcome cannot be read: {_reason(error)}") from error


def _mask(about: Mapping[str, Any], data: bytes) -> NDArray[np.uint8]:
    mask = decode_mask(data, MaskEncoding(about["encoding"]), int(about["width"]), int(about["height"]))
    mask.flags.writeable = False
    return mask


def _latency(document: Mapping[str, Any]) -> Latency:
    return Latency(*(float(document[name]) for name in ("decode", "wait", "compute", "encode", "total")))


def _activity(document: Mapping[str, Any]) -> Activity:
    layers = tuple(
        LayerActivity(
            str(layer["name"]),
            int(layer["neurons"]),
            int(layer["spikes"]),
            float(layer["firing_rate"]),
            float(layer["sops"]),
        )
        for layer in document["layers"]
    )
    energy = document["energy_estimate_j"]
    return Activity(
        layers,
        float(document["firing_rate"]),
        float(document["sops"]),
        float(document["macs_ann"]),
        float(energy["snn"]),
        float(energy["ann"]),
    )


def _classes(items: Sequence[Mapping[str, Any]]) -> tuple[SegmentationClass, ...]:
    classes = []
    for item in items:
        red, green, blue = (int(value) for value in item["color"])
        classes.append(SegmentationClass(int(item["id"]), str(item["name"]), (red, green, blue)))
    return tuple(classes)


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
