"""The pictures of masks, and what they show."""

from __future__ import annotations

from models.training.report.markdown import picture
from models.training.report.results import Results


def masks_section(results: Results) -> list[str]:
    """The section's lines."""
    return [
        "## Masks",
        "",
        "These pictures are drawn anew only where the data is at hand (`SPIKESEG_DATA`), and are kept elsewhere.",
        "",
        *_masks(results, "masks"),
        *_masks(results, "masks-frames"),
    ]


def _masks(results: Results, stem: str) -> list[str]:
    shown = results.stored.get(stem)
    if shown is None:
        return [f"{stem}.png: not drawn yet. `python -m models.training.report` draws it.", ""]
    columns, rows = ", ".join(shown["columns"]), ", ".join(shown["rows"])
    return [
        f"{shown['data']}; columns: {columns}; rows: {rows}. {shown['note']}",
        "",
        *picture(f"Masks on {shown['data']}", f"{stem}.png"),
    ]
