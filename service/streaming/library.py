"""The models that the service has loaded."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from models import errors as model_errors
from models import zoo
from models.events import EventBatch, SensorSize
from models.native.events import event_library
from models.runtime.model import WindowInput
from service.errors import ModelUnavailableError, UnknownModelError
from service.streaming.engine import Engine
from service.streaming.scheduler import Scheduler

if TYPE_CHECKING:
    from models.runtime.model import BackendChoice, SegmentationModel
    from models.runtime.precision import Precision
    from models.runtime.protocol import FrameModel

M = TypeVar("M")
Input = Literal["events", "frames"]

logger = logging.getLogger(__name__)


class ModelLibrary:
    """Loads each model of the zoo once, when it is first asked for.

    Parameters
    ----------
    engine : Engine
    folder : Path
        Of the trained networks.
    backend : "auto", "torch" or "event-driven"
    precision : "float32", "bfloat16" or "int8"
        What computes them and what their weights are rounded to (``models.zoo.load_any``).
    """

    def __init__(
        self, engine: Engine, folder: Path, backend: BackendChoice = "auto", precision: Precision = "float32"
    ) -> None:
        self._engine = engine
        self._folder = folder
        self._backend = backend
        self._precision = precision
        self._models: dict[str, SegmentationModel] = {}
        self._frame_models: dict[str, FrameModel] = {}
        self._loading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.damaged: dict[str, str] = {}
        """Networks of the zoo whose weights are not what their cards say, and what is wrong with each."""

    async def names(self) -> tuple[str, ...]:
        """Names of all models that segment events, loaded or not."""
        return await self._engine.offload(zoo.names, self._folder, input="events")

    async def describe(self) -> list[zoo.Description]:
        """What the cards say of the models that segment events; those that cannot be used are left out."""
        described = await self._engine.offload(_describe, self._folder, self._backend, self._precision)
        return [description for description in described if description.name not in self.damaged]

    async def get(self, name: str) -> SegmentationModel:
        """The model of that name.

        Raises
        ------
        UnknownModelError
            If there is none, or it segments frames; the message lists those that there are.
        ModelUnavailableError
            If its weights cannot be loaded.
        """
        if name in self._models:
            return self._models[name]
        # Asked before a lock is made, so that wrong names leave nothing behind.
        await self._require_known(name, "events")
        async with self._loading[name]:
            if name not in self._models:
                load = partial(zoo.load_events, backend=self._backend, precision=self._precision)
                self._models[name] = await self._load(name, load)
        return self._models[name]

    async def get_for_frames(self, name: str) -> FrameModel:
        """The model of single frames of that name; raises as ``get``."""
        if name in self._frame_models:
            return self._frame_models[name]
        await self._require_known(name, "frames")
        async with self._loading[name]:
            if name not in self._frame_models:
                self._frame_models[name] = await self._load(name, _load_for_frames)
        return self._frame_models[name]

    async def _require_known(self, name: str, input: Input) -> None:
        known = await self._engine.offload(zoo.names, self._folder, input=input)
        if name in known:
            return
        there_are = f"there are: {', '.join(known) or 'none'}"
        other: Input = "frames" if input == "events" else "events"
        if name in await self._engine.offload(zoo.names, self._folder, input=other):
            raise UnknownModelError(f"model {name!r} segments {other}, not {input}; for {input} {there_are}")
        raise UnknownModelError(f"no model {name[:80]!r}; {there_are}")

    async def _load(self, name: str, load: Callable[[str, Path], M]) -> M:
        try:
            return await self._engine.offload_loading(load, name, self._folder)
        except model_errors.ModelsError as error:
            logger.error("model %s cannot be loaded: %s", name, error)
            raise ModelUnavailableError(f"model {name!r} cannot be loaded on this server") from error

    async def warm_up(self, name: str, scheduler: Scheduler) -> None:
        """Load a model and step it once, and what filters events; compare all weights with their cards' digests."""
        await self._engine.offload_loading(event_library)
        self.damaged = await self._engine.offload_loading(_damaged, self._folder)
        for damaged, problem in self.damaged.items():
            logger.error("model %s cannot be used: %s", damaged, problem)
        model = await self.get(name)
        sensor = SensorSize(64, 48)
        await scheduler.segment(model, WindowInput(model.initial_state(sensor), EventBatch.empty(), sensor))

    def is_ready(self, name: str) -> bool:
        """Whether that model is loaded."""
        return name in self._models


def _damaged(folder: Path) -> dict[str, str]:
    problems = {}
    for name in zoo.names(folder):
        try:
            zoo.check_weights(name, folder)
        except model_errors.ModelsError as error:
            problems[name] = str(error)
    return problems


def _load_for_frames(name: str, folder: Path) -> FrameModel:
    from models.runtime.protocol import FrameModel

    return zoo.load(name, folder, expect=FrameModel)


def _describe(folder: Path, backend: BackendChoice, precision: Precision) -> list[zoo.Description]:
    described = []
    for name in zoo.names(folder, input="events"):
        try:
            described.append(zoo.describe(name, folder, backend=backend, precision=precision))
        except model_errors.ModelsError as error:
            logger.error("model %s cannot be used: %s", name, error)
    return described
