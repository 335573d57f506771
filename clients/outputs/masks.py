"""A folder of indexed PNG masks, with pictures beside them if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from clients.outputs.output import Output, unwritable
from clients.overlay import overlay
from clients.pictures import Pixels
from clients.results import Result
from models.classes import SegmentationClass
from models.events import EventBatch
from service.wire.masks import MaskEncoding, encode_mask


class MaskFolder(Output):
    """``mask_000000.png`` for each window: the class ids, in the classes' colours; 255 is unlabelled.

    Parameters
    ----------
    folder : Path
        Made if need be.
    classes : sequence of SegmentationClass
    overlays : bool
        Also write ``overlay_000000.png``: the mask in colour under the window's events.

    Raises
    ------
    OutputError
        If the folder cannot be made.
    """

    def __init__(self, folder: Path, classes: Sequence[SegmentationClass], *, overlays: bool = False) -> None:
        self._folder = folder
        self._classes = classes
        self._overlays = overlays
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error

    def write(self, result: Result, events: EventBatch, frame: Pixels | None = None) -> None:
        """See :meth:`Output.write`."""
        try:
            mask = encode_mask(result.mask, MaskEncoding.PNG, self._classes)
            (self._folder / f"mask_{result.window:06d}.png").write_bytes(mask)
            if self._overlays:
                picture = Image.fromarray(overlay(result.mask, events, self._classes, frame=frame))
                picture.save(self._folder / f"overlay_{result.window:06d}.png")
        except OSError as error:
            raise unwritable(self._folder, error) from error
