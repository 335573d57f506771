"""The page and its pictures as files."""

from __future__ import annotations

from pathlib import Path

from models import zoo
from models.training.report.masks import draw_masks
from models.training.report.page import render
from models.training.report.plots import draw_plots
from models.training.report.results import DOCS, RESULTS, read_results


def write_report(docs: Path = DOCS, zoo_folder: Path = zoo.ZOO, root: Path | None = None) -> list[str]:
    """Write ``results.md`` and its pictures into a folder, from ``results/`` in it and the cards of a zoo.

    Parameters
    ----------
    docs : Path
    zoo_folder : Path
        Folder of trained networks.
    root : Path, optional
        Data root, for the masks.

    Returns
    -------
    list of str
        What was left as it was, a line each.
    """
    folder = docs / RESULTS
    kept = draw_masks(folder, zoo_folder, root)
    results = read_results(folder, zoo_folder)
    draw_plots(results, folder)
    (docs / "results.md").write_text(render(results))
    return kept
