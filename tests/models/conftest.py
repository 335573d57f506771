"""Small data sets in the true on-disk layout, made on the spot."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


def _write(folder: Path, labels_folder: Path, names: list[str], size: tuple[int, int], highest_id: int) -> None:
    folder.mkdir(parents=True)
    labels_folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = size
    for name in names:
        blocks = rng.integers(0, highest_id + 1, (6, 8), dtype=np.uint8)
        labels = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
        grey = (20 * labels + rng.integers(0, 15, labels.shape)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}.jpg"), grey)
        cv2.imwrite(str(labels_folder / f"{name}.png"), labels)


@pytest.fixture(scope="session")
def data_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a CamVid and an IDD-Lite of a few random pictures."""
    root = tmp_path_factory.mktemp("data")
    camvid = root / "camvid"
    _write(camvid / "train", camvid / "trainannot", ["0001TP_006690", "0001TP_006720"], (360, 480), 11)
    _write(camvid / "val", camvid / "valannot", ["0016E5_07959", "0016E5_07961", "0016E5_07963"], (360, 480), 11)
    _write(root / "idd_lite" / "images", root / "idd_lite" / "labels", ["0_024541", "0_024703"], (227, 320), 6)
    return root
