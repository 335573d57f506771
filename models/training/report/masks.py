"""The pictures of masks, of a few windows of a drive and of a few frames, and notes of what they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models import zoo
from models.classes import DDD17_CLASSES, UNLABELLED
from models.datasets import voc2012
from models.errors import DatasetNotFoundError
from models.runtime.model import SegmentationModel
from models.runtime.protocol import FrameModel
from models.training.evaluate import SENSOR, WINDOW_US, LabelledWindow, camvid_events
from models.training.report.colors import OFF_COLOR, ON_COLOR, WITHOUT_LABEL, Color, Mask, color_mask, event_picture
from models.training.report.markdown import MICRO
from models.training.report.mask_grid import MaskGrid, write_grid
from models.training.report.networks import FRAMES, with_twins

SHOWN = ("edge-s", "edge-l", "edge-s-ann", "paper-deeplab")
SHOWN_COUNT = 4
UNLABELLED_ENTRY: tuple[str, Color] = ("without label", WITHOUT_LABEL)


def draw_masks(folder: Path, zoo_folder: Path = zoo.ZOO, root: Path | None = None) -> list[str]:
    """Draw the masks anew for which the data and a network are at hand; what was not drawn is told, a line each."""
    folder.mkdir(parents=True, exist_ok=True)
    known = zoo.names(zoo_folder)
    kept = []
    for stem, names, draw in (
        ("masks", SHOWN, _draw_zoo_events),
        ("masks-frames", with_twins(FRAMES), _draw_zoo_frames),
    ):
        try:
            if there := [name for name in names if name in known]:
                draw(there, folder, zoo_folder, root)
        except DatasetNotFoundError as error:
            kept.append(f"{stem}.png is left as it is: {error}")
    return kept


def _draw_zoo_events(names: Sequence[str], folder: Path, zoo_folder: Path, root: Path | None) -> None:
    models: list[Any] = [zoo.load_any(name, zoo_folder) for name in names]
    draw_event_masks(models, camvid_events(root), folder)


def _draw_zoo_frames(names: Sequence[str], folder: Path, zoo_folder: Path, root: Path | None) -> None:
    pictures = voc2012.load("val", root)
    draw_frame_masks([zoo.load(name, zoo_folder, expect=FrameModel) for name in names], pictures, folder)


def draw_event_masks(
    models: Sequence[SegmentationModel], windows: Sequence[LabelledWindow], folder: Path
) -> dict[str, Any]:
    """Draw events, truth and each network's masks of a few labelled windows: ``masks.png`` and ``masks.json``.

    Returns
    -------
    dict
        What the picture shows.
    """
    labelled = [k for k, window in enumerate(windows) if window.truth is not None]
    shown = [labelled[k] for k in spread(len(labelled))]
    truths = [truth for k in shown if (truth := windows[k].truth) is not None]
    rows = {"events": [event_picture(windows[k].events, SENSOR) for k in shown]}
    rows["truth"] = [color_mask(truth, DDD17_CLASSES) for truth in truths]
    for model in models:
        rows[model.name] = [color_mask(mask, model.classes) for mask in masks_along(model, windows, shown)]
    grid = MaskGrid(
        data="CamVid-events `val`, time since the drive's start",
        columns=[f"{(windows[k].t_start + WINDOW_US) * MICRO:.2f} s" for k in shown],
        rows=rows,
        legend=[
            ("ON event", ON_COLOR),
            ("OFF event", OFF_COLOR),
            *((c.name, c.color) for c in DDD17_CLASSES),
            UNLABELLED_ENTRY,
        ],
        note="Streaming networks carry their state from the drive's start up to each window.",
    )
    return write_grid(grid, folder, "masks")


def draw_frame_masks(models: Sequence[FrameModel], pictures: Sequence[voc2012.Picture], folder: Path) -> dict[str, Any]:
    """Draw truth and masks, but no pictures, of a few pictures: ``masks-frames.png`` and ``masks-frames.json``.

    Returns
    -------
    dict
        What the picture shows.
    """
    shown = [pictures[k] for k in spread(len(pictures))]
    masks = {"truth": [picture.labels for picture in shown]}
    for model in models:
        masks[model.name] = [model.segment_frame(picture.rgb).mask for picture in shown]
    present = {int(i) for row in masks.values() for mask in row for i in np.unique(mask)}
    legend = [(c.name, c.color) for c in voc2012.CLASSES if c.id in present]
    grid = MaskGrid(
        data="VOC2012 `val`",
        columns=[picture.name for picture in shown],
        rows={name: [color_mask(mask, voc2012.CLASSES) for mask in row] for name, row in masks.items()},
        legend=[*legend, UNLABELLED_ENTRY] if UNLABELLED in present else legend,
        note="The pictures themselves are not shown: their licences differ.",
    )
    return write_grid(grid, folder, "masks-frames")


def spread(count: int, shown: int = SHOWN_COUNT) -> list[int]:
    """The middles of ``shown`` equal stretches of ``count`` things, each once."""
    return sorted({int((k + 0.5) * count / shown) for k in range(shown)} if count else set())


def masks_along(model: SegmentationModel, windows: Sequence[LabelledWindow], shown: Sequence[int]) -> list[Mask]:
    """A network's masks of the windows ``shown``, its state carried up to each of them from the drive's start."""
    state = model.initial_state(SENSOR)
    masks = []
    for k, window in enumerate(windows[: max(shown) + 1]):
        # A network that carries nothing need not see the windows between.
        if k not in shown and not len(state):
            continue
        answer = model.segment(state, window.events, SENSOR)
        state = answer.state
        if k in shown:
            masks.append(answer.mask)
    return masks
