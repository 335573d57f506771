"""The models that the service has loaded."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING

from models import errors as model_errors
from models import zoo
from models.events import EventBatch, SensorSize
from service.errors import ModelUnavailableError, UnknownModelError
from service.streaming.engine import Engine

if TYPE_CHECKING:
    from models.runtime.streaming import StreamingModel

logger = logging.getLogger(__name__)


class ModelLibrary:
    """Loads each model of the zoo once, when it is first asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._models: dict[str, StreamingModel] = {}
        self._loading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def names(self) -> tuple[str, ...]:
        """Names of all models, loaded or not."""
        return await self._engine.offload(zoo.names)

    async def get(self, name: str) -> StreamingModel:
        """The model of that name.

        Raises
        ------
        UnknownModelError
            If there is none; the message lists those that there are.
        ModelUnavailableError
            If its weights cannot be loaded.
        """
        if name in self._models:
            return self._models[name]
        # Asked before a lock is made, so that wrong names leave nothing behind.
        known = await self.names()
        if name not in known:
            raise UnknownModelError(f"no model {name[:80]!r}; there are: {', '.join(known) or 'none'}")
        async with self._loading[name]:
            if name not in self._models:
                try:
                    self._models[name] = await self._engine.offload(zoo.load, name)
                except model_errors.ModelsError as error:
                    logger.error("model %s cannot be loaded: %s", name, error)
                    raise ModelUnavailableError(f"model {name!r} cannot be loaded on this server") from error
        return self._models[name]

    async def warm_up(self, name: str) -> None:
        """Load a model and step it once, so that the first request does not pay for it."""
        model = await self.get(name)
        sensor = SensorSize(64, 48)
        await self._engine.segment(model, model.initial_state(sensor), EventBatch.empty(), sensor)

    def is_ready(self, name: str) -> bool:
        """Whether that model is loaded."""
        return name in self._models
