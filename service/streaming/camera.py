"""The camera of a session that is sent frames: an emulated event sensor, part of the session's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.emulator import EmulatorConfig, EmulatorState, emulate, expected_noise, initial, look_anew, thresholds
from models.errors import EmulatorError
from models.events import EventBatch, SensorSize
from service.errors import FieldError, UnusableInputError
from service.streaming.windowing import SnapshotError
from service.wire.frames import Frame

_ARRAYS = {"log_intensity": np.float32, "reference": np.float32, "last_event_us": np.int64}
_DOCUMENT = {"t_us", "frames"}
_MOST_CROSSINGS = 100
_NOISE_SHARE = 4
# How far sums of thresholds may be off.
_LIGHT_ERROR = 0.01


def most_crossings(sensor: SensorSize, most_events: int) -> int:
    """Most events of one pixel between two frames.

    A flash of light over all pixels at once stays below ``most_events``, as a real sensor's readout is full.
    """
    return min(max(most_events // (2 * sensor.width * sensor.height), 1), _MOST_CROSSINGS)


@dataclass(frozen=True, slots=True)
class CameraConfig:
    """How frames become events.

    Attributes
    ----------
    emulator : EmulatorConfig
    seed : int
        Of the thresholds' spread and the noise.
    """

    emulator: EmulatorConfig
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """For a snapshot."""
        return {"emulator": asdict(self.emulator), "seed": self.seed}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CameraConfig:
        """What ``to_json`` gave.

        Raises
        ------
        SnapshotError
            If it is something else.
        """
        try:
            settings = {name: _number(value) for name, value in document["emulator"].items()}
            config = cls(EmulatorConfig(**settings), int(_number(document["seed"])))
        except (KeyError, TypeError, ValueError, AttributeError, EmulatorError) as error:
            raise SnapshotError(f"the snapshot's camera: {error}") from None
        if config.to_json() != document or config.seed < 0:
            raise SnapshotError("the snapshot's camera has settings of another kind than this server's")
        return config


@dataclass(frozen=True, slots=True)
class Camera:
    """Immutable: seeing a frame gives the events, and the camera afterwards.

    Attributes
    ----------
    config : CameraConfig
    state : EmulatorState or None
        None before the first frame.
    """

    config: CameraConfig
    state: EmulatorState | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it remembers."""
        return self.state.nbytes if self.state is not None else 0

    def see(self, frame: Frame) -> tuple[EventBatch, Camera]:
        """Events between the frame before and this one; none at the first.

        Raises
        ------
        UnusableInputError
            If the frame is not later than the one before it.
        """
        if self.state is None:
            state = initial(frame.grey, self.config.emulator, t_us=frame.t_us, seed=self.config.seed)
            return EventBatch.empty(), replace(self, state=state)
        try:
            events, state = emulate(self.state, frame.grey, frame.t_us, self.config.emulator)
        except EmulatorError as error:
            raise UnusableInputError(str(error), [FieldError("t_us", str(error))]) from None
        return events, replace(self, state=state)

    def misses(self, t_us: int, most_events: int) -> bool:
        """Whether it was away before a frame at ``t_us``: the noise of so long a time would be too many events.

        Parameters
        ----------
        t_us : int
            Microseconds.
        most_events : int
            Most events of one window; the noise between two frames may be a part of them.
        """
        if self.state is None:
            return False
        return expected_noise(self.state, t_us, self.config.emulator) > most_events / _NOISE_SHARE

    def wake(self, frame: Frame) -> Camera:
        """The camera after it was away until this frame: what changed meanwhile gives no events.

        Raises
        ------
        UnusableInputError
            If the frame is not later than the one before it.
        """
        if self.state is None:
            return self.see(frame)[1]
        try:
            state = look_anew(self.state, frame.grey, frame.t_us, self.config.emulator)
        except EmulatorError as error:
            raise UnusableInputError(str(error), [FieldError("t_us", str(error))]) from None
        return replace(self, state=state)

    def at_rest(self) -> Camera:
        """A camera of this kind that has seen nothing."""
        return Camera(self.config)

    def snapshot(self) -> tuple[dict[str, Any] | None, dict[str, NDArray[Any]]]:
        """What is remembered, as a document and arrays; the thresholds follow from the seed."""
        if self.state is None:
            return None, {}
        arrays = {name: getattr(self.state, name) for name in _ARRAYS}
        return {"t_us": self.state.t_us, "frames": self.state.frames}, arrays

    @classmethod
    def restore(
        cls,
        config: CameraConfig,
        sensor: SensorSize,
        document: Mapping[str, Any] | None,
        arrays: Mapping[str, NDArray[Any]],
    ) -> Camera:
        """What ``snapshot`` gave.

        Raises
        ------
        SnapshotError
            If it is something else, or of another sensor.
        """
        if document is None:
            if arrays:
                raise SnapshotError("the snapshot's camera has seen nothing, but remembers something")
            return cls(config)
        if set(document) != _DOCUMENT or any(type(v) is not int or not 0 <= v < 2**63 for v in document.values()):
            raise SnapshotError(f"the snapshot's camera needs {' and '.join(sorted(_DOCUMENT))}, numbers from 0 on")
        shape = (sensor.height, sensor.width)
        if set(arrays) != set(_ARRAYS):
            raise SnapshotError(f"the snapshot's camera has images {sorted(arrays)}, expected {sorted(_ARRAYS)}")
        for name, dtype in _ARRAYS.items():
            found = arrays[name]
            if found.shape != shape or found.dtype != dtype:
                raise SnapshotError(
                    f"the camera's {name} is {found.dtype} {found.shape}, expected {np.dtype(dtype)} {shape}"
                )
            if not np.isfinite(found).all():
                raise SnapshotError(f"the camera's {name} holds values that are not finite")
        dark = config.emulator.dark_level
        darkest, brightest = np.log(dark) - _LIGHT_ERROR, np.log(1 + dark) + _LIGHT_ERROR
        for name in ("log_intensity", "reference"):
            if arrays[name].min() < darkest or arrays[name].max() > brightest:
                raise SnapshotError(f"the camera's {name} must lie between {darkest:.3f} and {brightest:.3f}")
        if arrays["last_event_us"].max() > document["t_us"]:
            raise SnapshotError("the camera's last_event_us is later than its last frame")
        theta_on, theta_off = thresholds(shape, config.emulator, config.seed)
        state = EmulatorState(
            document["t_us"],
            arrays["log_intensity"],
            arrays["reference"],
            theta_on,
            theta_off,
            arrays["last_event_us"],
            config.seed,
            document["frames"],
        )
        return cls(config, state)


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is not a number")
    return value
