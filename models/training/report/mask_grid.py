"""A grid of coloured pictures under a legend, written as a PNG and a JSON file that says what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.patches import Patch

from models.training.command import write_json
from models.training.report.colors import Color, RgbPicture
from models.training.report.pictures import new_figure, save


@dataclass(frozen=True, slots=True)
class MaskGrid:
    """Named rows of pictures under named columns.

    Attributes
    ----------
    data : str
        What the pictures are of.
    columns : sequence of str
    rows : mapping
        Pictures, one for each column, by the row's name.
    legend : sequence
        Names and colours.
    note : str
        What else there is to say of them.
    """

    data: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[RgbPicture]]
    legend: Sequence[tuple[str, Color]]
    note: str


def write_grid(grid: MaskGrid, folder: Path, stem: str) -> dict[str, Any]:
    """Write a grid's picture and, in a JSON file beside it, what the picture shows.

    Returns
    -------
    dict
        What the picture shows.
    """
    _draw(grid, folder / f"{stem}.png")
    shown = {"data": grid.data, "columns": list(grid.columns), "rows": list(grid.rows), "note": grid.note}
    write_json(shown, folder / f"{stem}.json")
    return shown


def _draw(grid: MaskGrid, path: Path) -> None:
    figure = new_figure(2.05 * len(grid.columns) + 0.2, 1.56 * len(grid.rows) + 0.9)
    panels = figure.subplots(len(grid.rows), len(grid.columns), squeeze=False)
    for line, (name, pictures) in zip(panels, grid.rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=9)
        for panel, picture in zip(line, pictures, strict=True):
            panel.imshow(picture, interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_color("0.6")
    for panel, title in zip(panels[0], grid.columns, strict=True):
        panel.set_title(title, fontsize=9)
    patches = [
        Patch(facecolor=f"#{bytes(color).hex()}", edgecolor="0.5", linewidth=0.5, label=name)
        for name, color in grid.legend
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    save(figure, path)
