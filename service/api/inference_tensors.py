"""The tensors of the models: events in, masks and numbers out, one row for each window."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classes import SegmentationClass
from models.events import EventBatch, SensorSize
from service.streaming.answers import Answer
from service.wire.errors import PacketError
from service.wire.events import check_events
from service.wire.masks import MaskEncoding, decode_mask
from service.wire.tensors import DATATYPES, Tensor

_ANY = -1
_JSON_CHARS = 24
"""Most characters of a number in JSON, with the comma."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor must be like; -1 in the shape stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor may have this shape."""
        return len(shape) == len(self.shape) and all(
            mine in (_ANY, size) for mine, size in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that a client asks for; ``binary`` if its values are to stand behind the JSON."""

    name: str
    binary: bool


INPUTS = (
    TensorSpec("events", "INT64", (_ANY, 4)),
    TensorSpec("sensor", "INT32", (2,), optional=True),
    TensorSpec("until_us", "INT64", (1,), optional=True),
)


def output_specs(classes: Sequence[SegmentationClass]) -> tuple[TensorSpec, ...]:
    """The outputs of a model with these classes."""
    return (
        TensorSpec("mask", "UINT8", (_ANY, _ANY, _ANY)),
        TensorSpec("window", "INT64", (_ANY, 3)),
        TensorSpec("events_in", "INT64", (_ANY,)),
        TensorSpec("firing_rate", "FP32", (_ANY,)),
        TensorSpec("sops", "FP64", (_ANY,)),
        TensorSpec("energy_snn_j", "FP64", (_ANY,)),
        TensorSpec("class_share", "FP32", (_ANY, len(classes))),
    )


def output_names() -> tuple[str, ...]:
    """Names of the outputs, which are the same for all models."""
    return tuple(spec.name for spec in output_specs(()))


def events_of(tensor: NDArray[np.int64] | None, sensor: SensorSize, *, ordered: bool) -> EventBatch:
    """The events of a tensor (N, 4); none if there is no tensor.

    Raises
    ------
    PacketError
        For the first event that lies outside ``sensor``, whose time is out of range or, if they must be ``ordered``,
        runs back, or whose polarity is neither 0 nor 1.
    """
    if tensor is None or not len(tensor):
        return EventBatch.empty()
    t, x, y, p = (np.ascontiguousarray(tensor[:, column]) for column in range(4))
    # Before they are cut down to fewer bits.
    for name, column, most in (("x", x, 0xFFFF), ("y", y, 0xFFFF), ("p", p, 1)):
        if int(column.min()) < 0 or int(column.max()) > most:
            at = int(((column < 0) | (column > most)).argmax())
            raise PacketError(f"{name}[{at}] = {column[at]} is not between 0 and {most}", name)
    events = EventBatch(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8))
    check_events(events, sensor, ordered=ordered)
    return events


def most_windows(
    wanted: Sequence[WantedOutput],
    sensor: SensorSize,
    classes: Sequence[SegmentationClass],
    *,
    max_bytes: int,
    max_json_bytes: int,
) -> int:
    """How many windows an answer can hold without being larger than it may be.

    Parameters
    ----------
    wanted : sequence of WantedOutput
    sensor : SensorSize
    classes : sequence of SegmentationClass
    max_bytes : int
        For what stands behind the JSON.
    max_json_bytes : int
        For the values in the JSON.
    """
    specs = {spec.name: spec for spec in output_specs(classes)}
    behind = in_json = 0
    for output in wanted:
        spec = specs[output.name]
        is_mask = output.name == "mask"
        items = sensor.width * sensor.height if is_mask else abs(int(np.prod(spec.shape)))
        if output.binary:
            behind += items * DATATYPES[spec.datatype].itemsize
        else:
            digits = max(len(str(c.id)) for c in classes)
            in_json += items * (digits + 1 if is_mask else _JSON_CHARS)
    return min(max_bytes // behind if behind else sys.maxsize, max_json_bytes // in_json if in_json else sys.maxsize)


def output_tensors(
    wanted: Sequence[WantedOutput],
    answers: Sequence[Answer],
    sensor: SensorSize,
    classes: Sequence[SegmentationClass],
) -> list[Tensor]:
    """The answers as tensors, those that are wanted, in their order."""
    about = [answer.metadata for answer in answers]
    tensors = []
    for output in wanted:
        array: NDArray[Any]
        match output.name:
            case "mask":
                array = _masks(answers, sensor)
            case "window":
                rows = [(m["window"], m["t_start"], m["t_end"]) for m in about]
                array = np.array(rows, "<i8").reshape(-1, 3)
            case "events_in":
                array = np.array([m["events"] for m in about], "<i8")
            case "firing_rate":
                array = np.array([m["activity"]["firing_rate"] for m in about], "<f4")
            case "sops":
                array = np.array([m["activity"]["sops"] for m in about], "<f8")
            case "energy_snn_j":
                array = np.array([m["activity"]["energy_estimate_j"]["snn"] for m in about], "<f8")
            case "class_share":
                array = np.array([m["class_share"] for m in about], "<f4").reshape(-1, len(classes))
        tensors.append(Tensor(output.name, array, output.binary))
    return tensors


def _masks(answers: Sequence[Answer], sensor: SensorSize) -> NDArray[np.uint8]:
    masks = np.empty((len(answers), sensor.height, sensor.width), np.uint8)
    for row, answer in zip(masks, answers, strict=True):
        encoding = MaskEncoding(answer.metadata["mask"]["encoding"])
        row[:] = decode_mask(answer.mask, encoding, sensor.width, sensor.height)
    return masks
