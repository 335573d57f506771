"""IDD-Lite (Varma et al., WACV 2019): driving in India, level-1 labels, which are partly sets of our classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.datasets.labels import set_table
from models.datasets.root import data_root, require_folders
from models.datasets.stills import Still, read_grey, read_label_ids

LAYOUT = """  idd_lite/images/*.jpg   driving pictures, 320x227
  idd_lite/labels/*.png   level-1 label ids 0 to 6, 255 none"""

# 0 drivable, 1 non-drivable, 2 living things, 3 vehicles, 4 roadside objects, 5 far objects, 6 sky.
# Far objects are buildings or vegetation, roadside objects poles and signs or walls and fences.
SETS = set_table({0: [0], 1: [0, 3], 2: [4], 3: [5], 4: [1, 2], 5: [1, 3], 6: [1]})


def load(root: Path | None = None) -> list[Still]:
    """All pictures, in the order of their names."""
    base = data_root(root) / "idd_lite"
    require_folders("IDD-Lite", base, ("images", "labels"), LAYOUT)
    stills = []
    for path in sorted((base / "images").glob("*.jpg")):
        ids = read_label_ids(base / "labels" / f"{path.stem}.png")
        stills.append(Still(path.stem, read_grey(path), np.take(SETS, ids)))
    return stills
