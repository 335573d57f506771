"""CamVid (Brostow et al., PRL 2009) in the SegNet split: stills at 1 Hz for training, one 15 Hz drive for validation.

The validation drive (0016E5, frames 07959 to 08159) is a part of a drive of which other parts are in ``train``; the
nearest training picture is one second away. That is the split as everybody uses it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.datasets.labels import set_table
from models.datasets.root import data_root, require_folders
from models.datasets.stills import Still, read_grey, read_label_ids

LAYOUT = """  camvid/train/*.jpg  camvid/trainannot/*.png   stills, 480x360, label ids 0 to 11
  camvid/val/*.jpg    camvid/valannot/*.png     consecutive frames at 15 Hz"""

# 0 sky, 1 building, 2 pole, 3 road, 4 pavement, 5 tree, 6 sign, 7 fence, 8 car, 9 pedestrian, 10 bicyclist
SETS = set_table({0: [1], 1: [1], 2: [2], 3: [0], 4: [0], 5: [3], 6: [2], 7: [1], 8: [5], 9: [4], 10: [4]})


def load(split: str, root: Path | None = None) -> list[Still]:
    """All pictures of ``train`` or ``val``, in the order of their names (for ``val``: of time)."""
    base = data_root(root) / "camvid"
    require_folders("CamVid", base, (split, f"{split}annot"), LAYOUT)
    stills = []
    for path in sorted((base / split).glob("*.jpg")):
        ids = read_label_ids(base / f"{split}annot" / f"{path.stem}.png")
        stills.append(Still(path.stem, read_grey(path), np.take(SETS, ids)))
    return stills
