"""A session as a checkpoint, and back: its settings, its place in the stream, its membranes, its latest answers.

What comes back goes on with the same bits, as long as the same backend computes it (a replica with another one goes
on as well, but rounds its sums differently). Whether it fits is checked in every particular, since a snapshot may have
been in anybody's hands.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import ModelsError
from models.events import SensorSize
from models.runtime.state import State
from models.runtime.state_arrays import state_from_arrays, state_to_arrays
from service.streaming.answers import Answer, AnswerFormat
from service.streaming.backlog import Backlog, Policy
from service.streaming.camera import Camera, CameraConfig
from service.streaming.checkpoints import Checkpoint
from service.streaming.windowing import EventStream, SnapshotError, StreamConfig, WindowLimits
from service.wire.masks import MaskEncoding

if TYPE_CHECKING:
    from models.runtime.model import SegmentationModel

Recent = Mapping[int, tuple[Answer, ...]]

_MEMBRANES = "membranes/"
_STREAM = "stream/"
_CAMERA = "camera/"
_ANSWERS = "answers"
_Natural = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What a session is opened with, and keeps.

    Attributes
    ----------
    id : str
        Its public name.
    secret_digest : bytes
        SHA-256 of what it is taken up again with.
    model, fingerprint : str
        Name of the network, and what its settings and weights hash to.
    sensor : SensorSize
    config : StreamConfig
    form : AnswerFormat
    backlog : Backlog
    opened_at : float
        Unix time in seconds.
    camera : CameraConfig or None
        How frames become events; None if the session takes events.
    owner : str
        Id of the API key that it was opened with, and that alone can use it; empty on a server without keys.
    """

    id: str
    secret_digest: bytes
    model: str
    fingerprint: str
    sensor: SensorSize
    config: StreamConfig
    form: AnswerFormat
    backlog: Backlog
    opened_at: float
    camera: CameraConfig | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Everything that a message changes, replaced as a whole once all of its windows are answered.

    Attributes
    ----------
    stream : EventStream
    membranes : State
    next_sequence : int
        Number of the message that comes next.
    ended : bool
        Whether the last message was the stream's end.
    at_rest : bool
        Whether the membranes are those of a network that has seen nothing.
    camera : Camera or None
        What the camera of a session of frames remembers.
    """

    stream: EventStream
    membranes: State
    next_sequence: int = 1
    ended: bool = False
    at_rest: bool = True
    camera: Camera | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the membranes, the held events, and what the camera remembers."""
        return self.membranes.nbytes + self.stream.nbytes + (self.camera.nbytes if self.camera is not None else 0)

    def let_go(self) -> Progress:
        """The same without membranes and what camera and filters remember: nothing will be computed any more."""
        camera = self.camera.at_rest() if self.camera is not None else None
        return replace(self, membranes=State({}), stream=self.stream.let_go(), camera=camera)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint that has been read and found in order, apart from the model, which only the caller knows."""

    spec: SessionSpec
    stream: EventStream
    membranes: Mapping[str, NDArray[Any]] | None
    next_sequence: int
    ended: bool
    recent: Recent
    camera: Camera | None = None

    def progress(self, model: SegmentationModel) -> Progress:
        """Where the session stands, its membranes made for this model.

        Raises
        ------
        SnapshotError
            If the membranes are not those of this network and sensor.
        """
        membranes = State({}) if self.ended else self.state(model)
        at_rest = self.membranes is None
        if membranes is None:
            membranes = model.initial_state(self.spec.sensor)
        return Progress(self.stream, membranes, self.next_sequence, self.ended, at_rest, self.camera)

    def state(self, model: SegmentationModel) -> State | None:
        """The membranes; None if they are at rest.

        Raises
        ------
        SnapshotError
            If they are not those of this network and sensor.
        """
        if self.spec.fingerprint != model.fingerprint:
            raise SnapshotError(
                f"the snapshot was taken with other weights of {model.name!r} than this server has, with a backend "
                f"other than {model.backend} (SPIKESEG_BACKEND), or with weights other than {model.precision} "
                "(SPIKESEG_WEIGHTS)"
            )
        if self.membranes is None:
            return None
        try:
            state = state_from_arrays(self.membranes)
        except ModelsError as error:
            raise SnapshotError(f"the snapshot's membranes: {error}") from None
        expected = model.initial_state(self.spec.sensor)
        if set(state) != set(expected):
            raise SnapshotError(f"the snapshot holds layers {sorted(state)}, the network has {sorted(expected)}")
        for name, tensor in expected.items():
            found = state[name]
            if found.shape != tensor.shape or found.dtype != tensor.dtype:
                raise SnapshotError(
                    f"membranes of layer {name} are {found.dtype} {tuple(found.shape)}, "
                    f"expected {tensor.dtype} {tuple(tensor.shape)}"
                )
        return state


def session_checkpoint(spec: SessionSpec, progress: Progress, recent: Recent) -> Checkpoint:
    """Everything that another server needs to go on with a session."""
    document, arrays = progress.stream.snapshot()
    found: dict[str, NDArray[Any]] = {_STREAM + name: array for name, array in arrays.items()}
    if not progress.at_rest and not progress.ended:
        found |= {_MEMBRANES + name: array for name, array in state_to_arrays(progress.membranes).items()}
    camera = None
    if progress.camera is not None:
        seen, arrays = progress.camera.snapshot()
        found |= {_CAMERA + name: array for name, array in arrays.items()}
        camera = {"config": progress.camera.config.to_json(), "seen": seen}
    answers = [
        {"sequence": sequence, "window": answer.window, "metadata": answer.metadata, "bytes": len(answer.mask)}
        for sequence, kept in recent.items()
        for answer in kept
    ]
    if answers:
        masks = b"".join(answer.mask for kept in recent.values() for answer in kept)
        found[_ANSWERS] = np.frombuffer(masks, np.uint8)
    header = {
        "session": spec.id,
        "secret_sha256": base64.b64encode(spec.secret_digest).decode("ascii"),
        "model": spec.model,
        "fingerprint": spec.fingerprint,
        "sensor": {"width": spec.sensor.width, "height": spec.sensor.height},
        "config": spec.config.to_json(),
        "form": {"mask": str(spec.form.mask), "metrics": spec.form.metrics},
        "backlog": spec.backlog.to_json(),
        "opened_at": spec.opened_at,
        "stream": document,
        "at_rest": progress.at_rest,
        "next_sequence": progress.next_sequence,
        "ended": progress.ended,
        "camera": camera,
        "answers": answers,
    }
    if spec.owner:
        header["owner"] = spec.owner
    return Checkpoint(header, found)


def read_snapshot(checkpoint: Checkpoint, limits: WindowLimits) -> Snapshot:
    """Read what ``session_checkpoint`` made.

    Raises
    ------
    SnapshotError
        If anything in it is not as it should be; the message says what.
    """
    try:
        header = _Header.model_validate(checkpoint.header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SnapshotError(f"the snapshot's {place}: {first['msg']}") from None
    config = StreamConfig.from_json(header.config)
    sensor = SensorSize(header.sensor.width, header.sensor.height)
    stream = EventStream.restore(config, limits, header.stream, _part(checkpoint, _STREAM), sensor=sensor)
    camera = None
    if header.camera is not None:
        camera = Camera.restore(
            CameraConfig.from_json(header.camera.config), sensor, header.camera.seen, _part(checkpoint, _CAMERA)
        )
    spec = SessionSpec(
        header.session,
        base64.b64decode(header.secret_sha256),
        header.model,
        header.fingerprint,
        sensor,
        config,
        AnswerFormat(MaskEncoding(header.form.mask), header.form.metrics),
        Backlog(Policy(header.backlog.policy), header.backlog.windows, header.backlog.deadline_s),
        header.opened_at,
        camera.config if camera is not None else None,
        header.owner,
    )
    membranes = None if header.at_rest or header.ended else _part(checkpoint, _MEMBRANES)
    return Snapshot(spec, stream, membranes, header.next_sequence, header.ended, _answers(header, checkpoint), camera)


def _part(checkpoint: Checkpoint, prefix: str) -> dict[str, NDArray[Any]]:
    return {name[len(prefix) :]: a for name, a in checkpoint.arrays.items() if name.startswith(prefix)}


def _answers(header: _Header, checkpoint: Checkpoint) -> Recent:
    masks = checkpoint.arrays.get(_ANSWERS, np.empty(0, np.uint8)).tobytes()
    if len(masks) != sum(answer.bytes for answer in header.answers):
        raise SnapshotError("the snapshot's masks are not as long as its answers say")
    recent: dict[int, tuple[Answer, ...]] = {}
    at = 0
    for answer in header.answers:
        mask = masks[at : at + answer.bytes]
        at += answer.bytes
        kept = recent.get(answer.sequence, ())
        recent[answer.sequence] = (*kept, Answer(answer.window, answer.metadata, mask))
    return recent


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Sensor(_Strict):
    width: Annotated[int, Field(ge=1, le=0xFFFF)]
    height: Annotated[int, Field(ge=1, le=0xFFFF)]


class _Form(_Strict):
    mask: Literal["zlib", "raw", "png"]
    metrics: bool


class _Backlog(_Strict):
    policy: Literal["wait", "drop-oldest", "merge"]
    windows: Annotated[int, Field(ge=1, lt=2**31)]
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class _Answer(_Strict):
    sequence: _Natural
    window: _Natural
    metadata: dict[str, Any]
    bytes: _Natural


class _Camera(_Strict):
    config: dict[str, Any]
    seen: dict[str, Any] | None


class _Header(_Strict):
    session: Annotated[str, Field(max_length=64)]
    secret_sha256: Annotated[str, Field(pattern=r"^([A-Za-z0-9+/]{43}=)?$")]
    model: str
    fingerprint: str
    sensor: _Sensor
    config: dict[str, Any]
    form: _Form
    backlog: _Backlog
    opened_at: Annotated[float, Field(allow_inf_nan=False)]
    stream: dict[str, Any]
    at_rest: bool
    next_sequence: Annotated[int, Field(ge=1, lt=2**63)]
    ended: bool
    camera: _Camera | None = None
    owner: Annotated[str, Field(max_length=64)] = ""
    answers: list[_Answer]
