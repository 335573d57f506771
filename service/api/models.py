"""Which models there are."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from models.classes import UNLABELLED
from service.api.callers import takes
from service.api.problems import PROBLEM_RESPONSES
from service.api.services import AppServices
from service.auth import Scope

router = APIRouter(tags=["models"], responses=PROBLEM_RESPONSES)


@router.get("/v1/models")
@takes(Scope.READ)
async def list_models(services: AppServices) -> dict[str, Any]:
    """Models with classes, how they run and on what, input grid, default window in microseconds, and card."""
    return {
        "models": [
            {
                "name": model.name,
                "default": model.name == services.settings.default_model,
                "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in model.classes],
                "unlabelled": UNLABELLED,
                "mode": model.mode,
                "steps": model.steps,
                "backend": model.backend,
                "weights": model.precision,
                "grid": {"longest_side": model.longest_side},
                "window": {"us": model.window_us},
                "card": model.card,
            }
            for model in await services.library.describe()
        ]
    }
