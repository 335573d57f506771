"""VOC 2012: the official tree, one folder for each split, classes and palette."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.datasets import voc2012
from models.errors import DatasetNotFoundError, EncodingError

SIZE = (12, 8)
"""Width and height of the pictures made here."""


def ids_of(k: int) -> NDArray[np.uint8]:
    """Labels that hold background, one class and void."""
    ids = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    ids[2:6, 3:9] = k
    ids[0] = 255
    return ids


def write_picture(folder: Path, name: str, k: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (200, 10, k)).save(folder / f"{name}.jpg", quality=100, subsampling=0)


def write_labels(folder: Path, name: str, k: int, *, palette: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids_of(k))
    if palette:
        image = image.convert("P")
        image.putdata(ids_of(k).ravel().tolist())
        image.putpalette([v for i in range(256) for v in voc2012.palette_color(i)])
    image.save(folder / f"{name}.png")


def write_official(base: Path) -> None:
    """The tree of the development kit with the augmented labels unpacked beside the original ones."""
    names = ["2007_000032", "2007_000039", "2008_000008"]
    for k, name in enumerate(names):
        write_picture(base / "JPEGImages", name, k + 1)
        write_labels(base / "SegmentationClassAug", name, k + 1, palette=False)
    for k, name in enumerate(names[:2]):
        write_labels(base / "SegmentationClass", name, k + 1, palette=True)
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000039\n2007_000032\n")
    (lists / "val.txt").write_text("2007_000032\n")
    (lists / "train_aug.txt").write_text(
        "".join(f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n" for name in names)
    )


@pytest.mark.parametrize("folder", ["voc2012", "VOCdevkit/VOC2012"])
def test_the_official_tree(tmp_path: Path, folder: str) -> None:
    write_official(tmp_path / folder)
    train = voc2012.load("train", tmp_path)
    assert train.names == ["2007_000039", "2007_000032"]
    picture = train[0]
    assert (picture.name, picture.rgb.shape, picture.rgb.dtype) == ("2007_000039", (8, 12, 3), np.uint8)
    assert np.abs(picture.rgb[4, 4].astype(int) - (200, 10, 2)).max() <= 3
    assert (picture.labels == ids_of(2)).all()
    assert voc2012.load("val", tmp_path).names == ["2007_000032"]


def test_the_augmented_split_has_grey_labels_and_either_kind_of_list(tmp_path: Path) -> None:
    base = tmp_path / "voc2012"
    write_official(base)
    pictures = voc2012.load("train_aug", tmp_path)
    assert len(pictures) == 3
    assert (pictures[2].labels == ids_of(3)).all()
    lists = base / "ImageSets" / "Segmentation"
    (lists / "train_aug.txt").unlink()
    (lists / "trainaug.txt").write_text("2008_000008\n")
    assert voc2012.load("train_aug", tmp_path).names == ["2008_000008"]


@pytest.mark.parametrize("labels", ["SegmentationClassAug", "SegmentationClass"])
def test_one_folder_for_each_split(tmp_path: Path, labels: str) -> None:
    base = tmp_path / "voc2012" / "val"
    for k, name in enumerate(["2007_000491", "2007_000175"]):
        write_picture(base / "JPEGImages", name, k)
        write_labels(base / labels, name, k, palette=False)
    pictures = voc2012.load("val", tmp_path)
    assert pictures.names == ["2007_000175", "2007_000491"]
    assert (pictures[0].labels == ids_of(1)).all()
    assert [p.name for p in pictures[1:]] == ["2007_000491"]


def test_pictures_are_read_only_when_asked_for(tmp_path: Path) -> None:
    base = tmp_path / "voc2012"
    write_official(base)
    pictures = voc2012.load("train_aug", tmp_path)
    (base / "JPEGImages" / "2007_000039.jpg").write_bytes(b"no picture")
    assert [pictures[k].name for k in (0, 2)] == ["2007_000032", "2008_000008"]
    with pytest.raises(DatasetNotFoundError, match=r"000039.jpg is missing or not a picture"):
        list(pictures)


def test_colours_or_another_size_are_no_labels(tmp_path: Path) -> None:
    base = tmp_path / "voc2012"
    write_official(base)
    Image.new("RGB", SIZE).save(base / "SegmentationClass" / "2007_000032.png")
    Image.new("L", (3, 3)).save(base / "SegmentationClass" / "2007_000039.png")
    pictures = voc2012.load("train", tmp_path)
    with pytest.raises(EncodingError, match=r"is \(8, 12\) in size, its labels \(3, 3\)"):
        _ = pictures[0]
    with pytest.raises(EncodingError, match=r"holds colours \(mode RGB\), not class ids"):
        _ = pictures[1]


def test_absent_data_is_named_with_the_expected_tree(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"has no split train_aug. Expected:\n  voc2012/JPEGImages"):
        voc2012.load("train_aug", tmp_path)
    write_official(tmp_path / "voc2012")
    (tmp_path / "voc2012/SegmentationClass/2007_000039.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"2007_000039.png is missing \(1 files in all\)"):
        voc2012.load("train", tmp_path)
    write_picture(tmp_path / "voc2012/trainval/JPEGImages", "2007_000032", 0)
    with pytest.raises(DatasetNotFoundError, match="has pictures but no labels"):
        voc2012.load("trainval", tmp_path)
    with pytest.raises(ValueError, match="no split 'test'"):
        voc2012.load("test", tmp_path)


def test_classes_have_the_names_and_colours_of_the_development_kit() -> None:
    assert len(voc2012.CLASSES) == 21
    colors = {c.name: c.color for c in voc2012.CLASSES}
    assert colors["background"] == (0, 0, 0)
    assert colors["aeroplane"] == (128, 0, 0)
    assert colors["bicycle"] == (0, 128, 0)
    assert colors["car"] == (128, 128, 128)
    assert colors["cat"] == (64, 0, 0)
    assert colors["person"] == (192, 128, 128)
    assert colors["tvmonitor"] == (0, 64, 128)
    assert voc2012.palette_color(255) == (224, 224, 192)


@pytest.mark.parametrize(("split", "count"), [("train_aug", 3131), ("val", 223)])
def test_the_data_at_hand(split: str, count: int) -> None:
    root = os.environ.get("SPIKESEG_DATA")
    if not root or not (Path(root) / "voc2012" / split).is_dir():
        pytest.skip("SPIKESEG_DATA is not set or has no voc2012 by splits: VOC is kept outside of the project")
    pictures = voc2012.load(split)
    assert len(pictures) == count
    for picture in pictures[:: count // 20]:
        assert picture.rgb.shape == (*picture.labels.shape, 3)
        assert max(picture.labels.shape) == 144
        assert set(np.unique(picture.labels)) <= {*range(21), 255}
