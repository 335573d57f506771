"""PASCAL VOC 2012 segmentation (Everingham et al.), with the augmented labels of SBD (Hariharan et al., ICCV 2011).

The 1464 pictures of ``train`` have the original labels, palette PNGs in ``SegmentationClass``; the 10582 of
``train_aug`` have those of SBD, grey PNGs in ``SegmentationClassAug``. Both hold class ids, 255 for the void around
objects. The official tree and a plain tree of one folder for each split are read alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.classes import SegmentationClass
from models.datasets.root import data_root
from models.errors import DatasetNotFoundError, EncodingError

LAYOUT = """  voc2012/JPEGImages/*.jpg                  pictures (or VOCdevkit/VOC2012/ in place of voc2012/)
  voc2012/SegmentationClass/*.png           palette PNGs, class ids 0 to 20, 255 void
  voc2012/SegmentationClassAug/*.png        grey PNGs, for train_aug
  voc2012/ImageSets/Segmentation/{train,val,trainval,train_aug}.txt
or one folder for each split:
  voc2012/<split>/JPEGImages/*.jpg
  voc2012/<split>/SegmentationClassAug/*.png   (or SegmentationClass)"""

SPLITS = ("train", "val", "trainval", "train_aug")

NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def palette_color(index: int) -> tuple[int, int, int]:
    """The RGB colour of an id in the palette of the VOC development kit.

    Every third bit of the id, from the lowest on, fills one channel from its highest bit down.
    """
    red, green, blue = (sum((index >> (3 * bit + c) & 1) << (7 - bit) for bit in range(3)) for c in range(3))
    return red, green, blue


CLASSES: tuple[SegmentationClass, ...] = tuple(
    SegmentationClass(k, name, palette_color(k)) for k, name in enumerate(NAMES)
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One labelled picture.

    Attributes
    ----------
    rgb : uint8 array, (H, W, 3)
    labels : uint8 array, (H, W)
        Class ids 0 to 20, 255 void.
    """

    name: str
    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class Pictures(Sequence[Picture]):
    """The pictures of a split; each is read from disk when it is asked for.

    ``list(pictures)`` reads them all; ``pictures.names`` and slices read none.
    """

    def __init__(self, files: Sequence[tuple[Path, Path]]) -> None:
        self._files = files

    @property
    def names(self) -> list[str]:
        return [picture.stem for picture, _ in self._files]

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> Picture | Pictures:
        if isinstance(index, slice):
            return Pictures(self._files[index])
        return _read_picture(*self._files[index])


def load(split: str, root: Path | None = None) -> Pictures:
    """The pictures of ``train``, ``val``, ``trainval`` or ``train_aug``.

    Parameters
    ----------
    split : str
    root : Path, optional
        The folder that holds the data sets, see ``models.datasets.root``.

    Returns
    -------
    Pictures
        In the order of the split's list, or of their names where a folder stands for the list. Nothing is read yet.

    Raises
    ------
    DatasetNotFoundError
        If neither layout is there, or a listed picture or its labels are missing.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}: VOC 2012 has {', '.join(SPLITS)}")
    top = data_root(root)
    bases = [top / "voc2012", top / "VOCdevkit" / "VOC2012"]
    for base in bases:
        if (base / split / "JPEGImages").is_dir():
            return _from_folder(base / split)
        listed = _list_path(base, split)
        if listed is not None:
            return _from_list(base, split, listed)
    raise DatasetNotFoundError(f"VOC 2012 not found: {bases[0]} has no split {split}. Expected:\n{LAYOUT}")


def _list_path(base: Path, split: str) -> Path | None:
    # "trainaug" is what other toolboxes call the same list.
    names = (split, "trainaug") if split == "train_aug" else (split,)
    paths = (base / "ImageSets" / "Segmentation" / f"{name}.txt" for name in names)
    return next((path for path in paths if path.is_file()), None)


def _from_folder(folder: Path) -> Pictures:
    labels = next((f for f in (folder / "SegmentationClassAug", folder / "SegmentationClass") if f.is_dir()), None)
    if labels is None:
        raise DatasetNotFoundError(f"VOC 2012: {folder} has pictures but no labels. Expected:\n{LAYOUT}")
    return _paired(sorted((folder / "JPEGImages").glob("*.jpg")), labels)


def _from_list(base: Path, split: str, listed: Path) -> Pictures:
    # Lists of train_aug come both with bare names and with pairs of paths, "/JPEGImages/A.jpg /Segm.../A.png".
    names = [Path(line.split()[0]).stem for line in listed.read_text().splitlines() if line.strip()]
    labels = base / ("SegmentationClassAug" if split == "train_aug" else "SegmentationClass")
    return _paired([base / "JPEGImages" / f"{name}.jpg" for name in names], labels)


def _paired(pictures: Sequence[Path], labels: Path) -> Pictures:
    files = [(picture, labels / f"{picture.stem}.png") for picture in pictures]
    missing = [path for pair in files for path in pair if not path.is_file()]
    if missing:
        raise DatasetNotFoundError(
            f"VOC 2012: {missing[0]} is missing ({len(missing)} files in all). Expected:\n{LAYOUT}"
        )
    return Pictures(files)


def _read_picture(path: Path, labels_path: Path) -> Picture:
    with _open(path) as image:
        rgb = np.array(image.convert("RGB"))
    with _open(labels_path) as image:
        # Both modes hold ids: of a palette image, NumPy sees the indices and not the colours.
        if image.mode not in ("P", "L"):
            raise EncodingError(f"{labels_path} holds colours (mode {image.mode}), not class ids")
        labels = np.array(image)
    if rgb.shape[:2] != labels.shape:
        raise EncodingError(f"{path} is {rgb.shape[:2]} in size, its labels {labels.shape}")
    return Picture(path.stem, rgb, labels)


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, UnidentifiedImageError):
        raise DatasetNotFoundError(f"{path} is missing or not a picture") from None
