"""Which models there are."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from models.classes import UNLABELLED
from service.api.problems import PROBLEM_RESPONSES
from service.api.services import AppServices
from service.errors import ModelUnavailableError

router = APIRouter(tags=["models"], responses=PROBLEM_RESPONSES)


@router.get("/v1/models")
async def list_models(services: AppServices) -> dict[str, Any]:
    """Models with classes, how they run, input grid, default window in microseconds, and card."""
    listed = []
    for name in await services.library.names():
        try:
            model = await services.library.get(name)
        except ModelUnavailableError:
            # The others can still be used; the library has logged why.
            continue
        listed.append(
            {
                "name": model.name,
                "default": model.name == services.settings.default_model,
                "classes": [{"id": c.id, "name": c.name, "color": list(c.color)} for c in model.classes],
                "unlabelled": UNLABELLED,
                "mode": model.mode,
                "steps": model.steps,
                "grid": {"longest_side": model.longest_side},
                "window": {"us": model.window_us},
                "card": model.card,
            }
        )
    return {"models": listed}
