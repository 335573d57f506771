"""Loaders on small trees in the true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.datasets import camvid, idd_lite
from models.datasets.labels import at_cells, class_ids, set_table, sets_of_ids
from models.errors import DatasetNotFoundError


def test_camvid_ids_become_one_class_each(data_tree: Path) -> None:
    stills = camvid.load("train", data_tree)
    assert [still.name for still in stills] == ["0001TP_006690", "0001TP_006720"]
    assert stills[0].grey.shape == stills[0].labels.shape == (360, 480)
    assert class_ids(camvid.SETS)[:12].tolist() == [1, 1, 2, 0, 0, 3, 2, 1, 5, 4, 4, 255]


def test_idd_lite_ids_are_sets_where_its_classes_are_coarser(data_tree: Path) -> None:
    assert idd_lite.load(data_tree)[0].labels.shape == (227, 320)
    assert idd_lite.SETS[5] == (1 << 1 | 1 << 3)
    assert class_ids(idd_lite.SETS)[:8].tolist() == [0, 255, 4, 5, 255, 255, 1, 255]


def test_unlabelled_ids_are_empty_sets() -> None:
    assert set_table({0: [1, 2]})[[0, 1, 255]].tolist() == [0b110, 0, 0]


def test_a_cells_label_is_that_of_its_middle() -> None:
    labels = np.arange(36, dtype=np.uint8).reshape(6, 6)
    assert at_cells(labels, 2, 3).tolist() == [[7, 9, 11], [25, 27, 29]]


def test_ids_become_sets_and_sets_ids() -> None:
    ids = np.array([0, 5, 255], np.uint8)
    assert sets_of_ids(ids).tolist() == [1, 32, 0]
    assert class_ids(sets_of_ids(ids)).tolist() == ids.tolist()


def test_absent_data_is_named_with_the_expected_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"has no train, trainannot. Expected:\n  camvid/train"):
        camvid.load("train", tmp_path)
    with pytest.raises(DatasetNotFoundError, match="IDD-Lite not found"):
        idd_lite.load(tmp_path)
    with pytest.raises(DatasetNotFoundError, match="is not a folder"):
        idd_lite.load(tmp_path / "nowhere")
    monkeypatch.delenv("SPIKESEG_DATA", raising=False)
    with pytest.raises(DatasetNotFoundError, match="set SPIKESEG_DATA"):
        camvid.load("val")


def test_val_frames_come_in_order_of_time(data_tree: Path) -> None:
    assert [s.name[-5:] for s in camvid.load("val", data_tree)] == ["07959", "07961", "07963"]
    assert np.unique(camvid.load("val", data_tree)[0].labels).max() <= 32
