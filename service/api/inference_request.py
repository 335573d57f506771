"""What an inference request says: the JSON document, and the tensors in it or behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.events import SensorSize
from service.api.inference_tensors import INPUTS, WantedOutput, output_names
from service.api.problems import invalid_fields
from service.api.schemas import SessionFields, Side
from service.errors import FieldError, SensorMismatchError, TooLargeError, UnusableInputError
from service.streaming.windowing import StreamConfig, TimeWindows
from service.wire.tensors import MAX_DIMENSIONS, decode_binary, decode_json, split_body, split_tensors

_MAX_TENSORS = 16
_Name = Annotated[str, Field(max_length=128)]
_Natural = Annotated[int, Field(ge=0, lt=2**63)]
_Positive = Annotated[int, Field(ge=1, lt=2**63)]
_STREAM = ("window_us", "stride_us", "window_events", "stride_events", "gaps", "reorder_us", "wrap_bits", "on_restart")
_OURS = {
    "window": "window_us",
    "window.us": "window_us",
    "window.stride_us": "stride_us",
    "window.count": "window_events",
    "window.stride": "stride_events",
    "time": "reorder_us",
    "time.reorder_us": "reorder_us",
    "time.wrap_bits": "wrap_bits",
}


class _Document(BaseModel):
    """Other makers' clients add members of their own, which say nothing to us, and write null for what is not there."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


class Parameters(_Document):
    """The request's parameters; those that are given at a sequence's start hold for all of it."""

    model_config = ConfigDict(extra="forbid")

    sequence_id: Annotated[int, Field(ge=0, lt=2**64)] | Annotated[str, Field(max_length=1024)] = 0
    sequence_start: bool = False
    sequence_end: bool = False
    sequence_number: _Positive | None = None
    binary_data_output: bool = False
    priority: _Natural | None = None
    timeout: _Natural | None = None

    sensor_width: Side | None = None
    sensor_height: Side | None = None
    window_us: _Positive | None = None
    stride_us: _Positive | None = None
    window_events: _Positive | None = None
    stride_events: _Positive | None = None
    gaps: Literal["step", "leak"] | None = None
    reorder_us: _Natural | None = None
    wrap_bits: _Natural | None = None
    on_restart: Literal["refuse", "reset"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _pass_over(cls, given: Any) -> Any:
        # What clients tell Triton about its own workings.
        return (
            {n: value for n, value in given.items() if not n.startswith("triton_")}
            if isinstance(given, dict)
            else given
        )

    def stream(self) -> dict[str, int | str]:
        """How the stream is to be cut, as far as it is said."""
        return self.model_dump(include=set(_STREAM), exclude_none=True)


class _TensorParameters(_Document):
    binary_data_size: _Natural | None = None
    binary_data: bool | None = None
    shared_memory_region: Any = None
    classification: Any = None

    @model_validator(mode="after")
    def _check(self) -> _TensorParameters:
        if self.shared_memory_region is not None:
            raise ValueError("this server has no shared memory; send the data, or ask for it, in the body")
        if self.classification is not None:
            raise ValueError("no output of this server can be had as a classification")
        return self


class _Input(_Document):
    name: _Name
    datatype: Annotated[str, Field(max_length=40)]
    shape: Annotated[list[_Natural], Field(max_length=MAX_DIMENSIONS)]
    parameters: _TensorParameters = _TensorParameters()
    data: list[Any] | None = None


class _Output(_Document):
    name: _Name
    parameters: _TensorParameters = _TensorParameters()


class _Request(_Document):
    id: str | None = None
    parameters: Parameters = Parameters()
    inputs: Annotated[list[_Input], Field(max_length=_MAX_TENSORS)]
    outputs: Annotated[list[_Output], Field(max_length=_MAX_TENSORS)] = []


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A request whose tensors have been read.

    Attributes
    ----------
    id : str or None
        The client's name for the request.
    parameters : Parameters
    events : int64 array, (N, 4), or None
        Columns t, x, y, p.
    sensor : SensorSize or None
    until_us : int or None
    outputs : tuple of WantedOutput
        The tensors of the answer, in their order.
    """

    id: str | None
    parameters: Parameters
    events: NDArray[np.int64] | None
    sensor: SensorSize | None
    until_us: int | None
    outputs: tuple[WantedOutput, ...]

    def session_fields(self, model: str) -> SessionFields:
        """The session that a sequence begins with, or that answers a single request.

        Raises
        ------
        UnusableInputError
            If the sensor is missing, or the parameters do not go together.
        """
        if self.sensor is None:
            message = "the input sensor, or the parameters sensor_width and sensor_height, must be given"
            raise UnusableInputError(message, [FieldError("sensor", message)])
        given = self.parameters.stream()
        window = _renamed(given, window_us="us", stride_us="stride_us", window_events="count", stride_events="stride")
        clock = _renamed(given, reorder_us="reorder_us", wrap_bits="wrap_bits", on_restart="on_restart")
        try:
            return SessionFields.model_validate(
                {
                    "model": model,
                    "sensor": {"width": self.sensor.width, "height": self.sensor.height},
                    "window": window or None,
                    "gaps": given.get("gaps", "step"),
                    "time": clock,
                    "mask": "raw",
                }
            )
        except ValidationError as error:
            detail, errors = invalid_fields(error)
            raise UnusableInputError(detail, named_as_parameters(errors)) from None

    def require_same(self, sensor: SensorSize, config: StreamConfig) -> None:
        """Hold what the request says of the stream against what its sequence began with.

        Raises
        ------
        SensorMismatchError
            If the sensor is another one.
        UnusableInputError
            If a parameter differs.
        """
        if self.sensor is not None and self.sensor != sensor:
            message = f"the request is of a {self.sensor} sensor, the sequence of {sensor}"
            raise SensorMismatchError(message, [FieldError("sensor", message)])
        window = config.window
        began: dict[str, int | str | None] = {
            "gaps": config.gaps,
            "reorder_us": config.reorder_us,
            "wrap_bits": config.wrap_bits,
            "on_restart": config.on_restart,
        }
        if isinstance(window, TimeWindows):
            began |= {"window_us": window.us, "stride_us": window.stride_us}
        else:
            began |= {"window_events": window.count, "stride_events": window.stride}
        errors = [
            FieldError(f"parameters.{name}", f"the sequence began with {name} = {began.get(name)}, not {value}")
            for name, value in self.parameters.stream().items()
            if began.get(name) != value
        ]
        if errors:
            raise UnusableInputError(errors[0].message, errors)


def read_request(body: bytes, header_length: str | None, max_json_bytes: int) -> InferRequest:
    """Read the body of a request.

    Parameters
    ----------
    body : bytes
    header_length : str, optional
        What the header says of the JSON's length.
    max_json_bytes : int
        The longest JSON that is read.

    Raises
    ------
    TensorError
        If the sizes in it do not fit, or a tensor cannot be read.
    TooLargeError
        If the JSON is too long.
    UnusableInputError
        If it is not a request to the models of this server.
    """
    text, rest = split_body(body, header_length)
    if len(text) > max_json_bytes:
        raise TooLargeError(f"the JSON has {len(text)} bytes, at most {max_json_bytes} are taken")
    try:
        request = _Request.model_validate_json(bytes(text))
    except ValidationError as error:
        raise UnusableInputError(*invalid_fields(error)) from None
    tensors = _read_inputs(request.inputs, rest)
    sensor = _read_sensor(tensors.get("sensor"), request.parameters)
    until_us = int(tensors["until_us"][0]) if "until_us" in tensors else None
    _check_sequence(request.parameters)
    if "events" not in tensors and until_us is None and not request.parameters.sequence_end:
        message = "the input events is missing; it may be left out if until_us is given, or at the end of a sequence"
        raise UnusableInputError(message, [FieldError("inputs", message)])
    return InferRequest(
        request.id,
        request.parameters,
        tensors.get("events"),
        sensor,
        until_us,
        _read_outputs(request.outputs, binary=request.parameters.binary_data_output),
    )


def named_as_parameters(errors: list[FieldError]) -> list[FieldError]:
    """Errors in the fields of a session, as errors in the parameters that they were made of."""
    return [
        FieldError(f"parameters.{_OURS[error.field]}" if error.field in _OURS else error.field, error.message)
        for error in errors
    ]


def _read_inputs(inputs: list[_Input], rest: memoryview) -> dict[str, NDArray[Any]]:
    _require_distinct("inputs", [tensor.name for tensor in inputs])
    sizes = [
        (tensor.name, tensor.parameters.binary_data_size)
        for tensor in inputs
        if tensor.parameters.binary_data_size is not None
    ]
    behind = split_tensors(rest, sizes)
    known = {spec.name: spec for spec in INPUTS}
    found = {}
    for index, tensor in enumerate(inputs):
        place = f"inputs.{index}"
        spec = known.get(tensor.name)
        if spec is None:
            raise _refusal(f"there is no input {tensor.name!r}; there are: {', '.join(known)}", f"{place}.name")
        if tensor.datatype != spec.datatype:
            raise _refusal(f"input {spec.name} is of {spec.datatype}, not of {tensor.datatype!r}", f"{place}.datatype")
        if not spec.fits(tensor.shape):
            raise _refusal(
                f"input {spec.name} has shape {list(spec.shape)} (-1: any size), not {tensor.shape}", f"{place}.shape"
            )
        data = behind.get(tensor.name)
        if (data is None) == (tensor.data is None):
            raise _refusal(f"input {spec.name} needs either data or a binary_data_size", f"{place}.data")
        if data is not None:
            found[spec.name] = decode_binary(spec.name, spec.datatype, tensor.shape, data)
        else:
            found[spec.name] = decode_json(spec.name, spec.datatype, tensor.shape, tensor.data)
    return found


def _read_sensor(tensor: NDArray[np.int32] | None, parameters: Parameters) -> SensorSize | None:
    named = None
    width, height = parameters.sensor_width, parameters.sensor_height
    if (width is None) != (height is None):
        field = "sensor_width" if width is None else "sensor_height"
        raise _refusal("sensor_width and sensor_height go together", f"parameters.{field}")
    if width is not None and height is not None:
        named = SensorSize(width, height)
    if tensor is None:
        return named
    sensor = SensorSize(int(tensor[0]), int(tensor[1]))
    if not (1 <= sensor.width <= 0xFFFF and 1 <= sensor.height <= 0xFFFF):
        raise _refusal(f"a sensor has 1 to 65535 pixels a side, not {sensor}", "sensor")
    if named is not None and named != sensor:
        raise _refusal(f"the input sensor says {sensor}, the parameters {named}", "sensor")
    return sensor


def _read_outputs(outputs: list[_Output], *, binary: bool) -> tuple[WantedOutput, ...]:
    """What the answer is to hold; all outputs if none are named."""
    known = output_names()
    if not outputs:
        return tuple(WantedOutput(name, binary) for name in known)
    _require_distinct("outputs", [output.name for output in outputs])
    wanted = []
    for index, output in enumerate(outputs):
        if output.name not in known:
            raise _refusal(
                f"there is no output {output.name!r}; there are: {', '.join(known)}", f"outputs.{index}.name"
            )
        said = output.parameters.binary_data
        wanted.append(WantedOutput(output.name, binary if said is None else said))
    return tuple(wanted)


def _check_sequence(parameters: Parameters) -> None:
    if parameters.sequence_id in (0, ""):
        for name in ("sequence_start", "sequence_end", "sequence_number"):
            if getattr(parameters, name):
                raise _refusal(f"{name} needs a sequence_id that is neither 0 nor empty", "parameters.sequence_id")
    if parameters.sequence_start and parameters.sequence_number not in (None, 1):
        raise _refusal("a sequence starts with sequence_number 1", "parameters.sequence_number")


def _require_distinct(what: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise _refusal(f"{name!r} stands in {what} twice", f"{what}.{index}.name")


def _refusal(message: str, field: str) -> UnusableInputError:
    return UnusableInputError(message, [FieldError(field, message)])


def _renamed(given: dict[str, int | str], **names: str) -> dict[str, int | str]:
    return {theirs: given[ours] for ours, theirs in names.items() if ours in given}
